//! Vietnam's mobile numbering plan: which block was given to which operator, and the renumbering of 2018.
//!
//! Numbers are portable between operators, so a block names the operator only as a hint.

/// A Vietnamese mobile operator, by the blocks of numbers it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VietnamOperator {
    /// MobiFone.
    MobiFone,
    /// VNPT VinaPhone.
    VinaPhone,
    /// Viettel.
    Viettel,
    /// Vietnamobile.
    Vietnamobile,
    /// Gmobile (Gtel).
    Gmobile,
    /// iTel (Indochina Telecom, a virtual operator).
    Itel,
    /// Wintel (formerly Reddi, a virtual operator).
    Wintel,
}

impl VietnamOperator {
    /// All operators.
    pub const ALL: [Self; 7] = [
        Self::MobiFone,
        Self::VinaPhone,
        Self::Viettel,
        Self::Vietnamobile,
        Self::Gmobile,
        Self::Itel,
        Self::Wintel,
    ];

    /// The operator's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MobiFone => "MobiFone",
            Self::VinaPhone => "VinaPhone",
            Self::Viettel => "Viettel",
            Self::Vietnamobile => "Vietnamobile",
            Self::Gmobile => "Gmobile",
            Self::Itel => "iTel",
            Self::Wintel => "Wintel",
        }
    }

    /// Mobile country code and network code (ITU-T E.212): `452-04`.
    pub const fn mcc_mnc(self) -> &'static str {
        match self {
            Self::MobiFone => "452-01",
            Self::VinaPhone => "452-02",
            Self::Viettel => "452-04",
            Self::Vietnamobile => "452-05",
            Self::Gmobile => "452-07",
            Self::Itel => "452-08",
            Self::Wintel => "452-09",
        }
    }

    /// The operator's blocks: leading digits of the international number, country code first.
    pub const fn blocks(self) -> &'static [&'static str] {
        match self {
            Self::MobiFone => &["8470", "8476", "8477", "8478", "8479", "8489", "8490", "8493"],
            Self::VinaPhone => &["8481", "8482", "8483", "8484", "8485", "8488", "8491", "8494"],
            Self::Viettel => &[
                "8432", "8433", "8434", "8435", "8436", "8437", "8438", "8439", "8486", "8496", "8497",
                "8498",
            ],
            Self::Vietnamobile => &["8452", "8456", "8458", "8492"],
            Self::Gmobile => &["8459", "84993", "84994", "84995", "84996", "84997"],
            Self::Itel => &["8487", "84998", "84999"],
            Self::Wintel => &["8455"],
        }
    }
}

/// The operator of the block that the digits begin with, and the block's length.
pub(super) fn operator_of(digits: &str) -> Option<(VietnamOperator, usize)> {
    VietnamOperator::ALL.into_iter().find_map(|operator| {
        let block = operator.blocks().iter().find(|block| digits.starts_with(**block))?;
        Some((operator, block.len()))
    })
}

/// Whether an operator's block begins with the digits of `prefix`.
pub(super) fn has_range_starting(prefix: &str) -> bool {
    VietnamOperator::ALL.into_iter().flat_map(VietnamOperator::blocks).any(|block| block.starts_with(prefix))
}

/// The new start of an 11-digit mobile number from before the renumbering of 15 September 2018; `None` for any
/// other number. All old numbers had ten digits after the country code, today's have nine.
pub(super) fn renumbered(digits: &str) -> Option<&'static str> {
    let national = digits.strip_prefix("84").filter(|national| national.len() == 10)?;
    Some(match national.get(..3)? {
        // MobiFone
        "120" => "+8470",
        "121" => "+8479",
        "122" => "+8477",
        "126" => "+8476",
        "128" => "+8478",
        // VinaPhone
        "123" => "+8483",
        "124" => "+8484",
        "125" => "+8485",
        "127" => "+8481",
        "129" => "+8482",
        // Viettel
        "162" => "+8432",
        "163" => "+8433",
        "164" => "+8434",
        "165" => "+8435",
        "166" => "+8436",
        "167" => "+8437",
        "168" => "+8438",
        "169" => "+8439",
        // Vietnamobile
        "186" => "+8456",
        "188" => "+8458",
        // Gmobile
        "199" => "+8459",
        _ => return None,
    })
}
