use proptest::prelude::*;
use rlibphonenumber::PhoneNumberFormat;

use super::*;

#[test]
fn reads_numbers_and_their_facts() {
    for (input, country, range) in [
        ("+84981234567", "VN", "8498"),
        ("+84701234567", "VN", "8470"),
        ("+84993123456", "VN", "84993"),
        ("+84998123456", "VN", "84998"),
        ("+84559345678", "VN", "8455"),
        // In the numbering plan, but in no block that the operator table names.
        ("+84301234567", "VN", "84"),
        ("+84990123456", "VN", "84"),
        ("+4915112345678", "DE", "49"),
        ("+12125550123", "US", "1"),
        ("+14165550123", "CA", "1"),
        ("+33612345678", "FR", "33"),
        ("+2250712345678", "CI", "225"),
    ] {
        let number = E164::parse(input).unwrap_or_else(|error| panic!("{input}: {error}"));
        assert_eq!(number.digits(), &input[1..]);
        assert_eq!(number.country().as_str(), country, "{input}");
        assert_eq!(number.operator_range().as_str(), range, "{input}");
        assert_eq!(E164::parse(&format!("+{}", number.digits())), Ok(number));
    }
}

#[test]
fn refuses_with_the_reason() {
    for (input, error) in [
        ("", NumberError::Empty),
        ("0981234567", NumberError::NotInternational),
        ("0084981234567", NumberError::NotInternational),
        ("84981234567", NumberError::NotInternational),
        (" +84981234567", NumberError::NotInternational),
        ("+", NumberError::Length),
        ("+84 98 123 45 67", NumberError::NotDigits),
        ("+84-981234567", NumberError::NotDigits),
        ("+84981234567 ", NumberError::NotDigits),
        ("+84٩٨١٢٣٤٥٦٧", NumberError::NotDigits),
        ("+84981234567;ext=1", NumberError::NotDigits),
        ("++84981234567", NumberError::NotDigits),
        ("+849812", NumberError::Length),
        ("+8498123456789012", NumberError::Length),
        ("+999123456789", NumberError::UnknownCountryCode),
        ("+0981234567", NumberError::UnknownCountryCode),
        ("+840981234567", NumberError::NationalPrefix),
        ("+4401632960123", NumberError::NationalPrefix),
        ("+8498123456", NumberError::NotInPlan),
        ("+849812345678", NumberError::NotInPlan),
        ("+84102345678", NumberError::NotInPlan),
        ("+842438252525", NumberError::NotMobile),
        ("+841800123456", NumberError::NotMobile),
        ("+493012345678", NumberError::NotMobile),
        ("+881612345678", NumberError::NoCountry),
    ] {
        assert_eq!(E164::parse(input).map_err(|error| error.to_string()), Err(error.to_string()), "{input}");
    }
}

#[test]
fn old_vietnamese_numbers_are_refused_with_their_new_prefix() {
    // The table of the official notice of 2018, in national form: old block, new block.
    let viettel = (2..=9).map(|digit| (format!("16{digit}"), format!("3{digit}")));
    let others = [
        ("120", "70"),
        ("121", "79"),
        ("122", "77"),
        ("126", "76"),
        ("128", "78"),
        ("123", "83"),
        ("124", "84"),
        ("125", "85"),
        ("127", "81"),
        ("129", "82"),
        ("186", "56"),
        ("188", "58"),
        ("199", "59"),
    ];
    let others = others.map(|(old, new)| (old.to_owned(), new.to_owned()));
    let blocks: Vec<(String, String)> = viettel.chain(others).collect();
    assert_eq!(blocks.len(), 21);
    for (old, new) in blocks {
        let error = E164::parse(&format!("+84{old}5559142")).unwrap_err();
        let NumberError::OldVietnamese { new_prefix } = error else { panic!("{old}: {error}") };
        assert_eq!(new_prefix, format!("+84{new}"));
        assert!(!error.to_string().contains("555") && error.to_string().contains(new_prefix));
        assert!(
            E164::parse(&format!("{new_prefix}5559142")).is_ok(),
            "the hint leads to a valid number: {new_prefix}"
        );
    }
}

#[test]
fn every_operator_block_is_accepted_and_named() {
    for operator in VietnamOperator::ALL {
        for block in operator.blocks() {
            // Of some blocks only a part is in use: 0559, 0522 to 0528, 0896 to 0899.
            let number = ["2345678", "6345678", "9345678"]
                .iter()
                .find_map(|rest| E164::parse(&format!("+{block}{}", &rest[..11 - block.len()])).ok())
                .unwrap_or_else(|| panic!("{block}: no number of the block is accepted"));
            assert_eq!(number.operator_range().as_str(), *block);
            assert_eq!(number.operator_hint(), Some(operator));
            assert_eq!(number.country(), Country::VIETNAM);
        }
        assert!(operator.mcc_mnc().starts_with("452-") && !operator.name().is_empty());
    }
    assert_eq!(E164::parse("+84301234567").unwrap().operator_hint(), None);
    assert_eq!(E164::parse("+4915112345678").unwrap().operator_hint(), None);
}

#[test]
fn every_countrys_mobile_example_is_accepted() {
    let mut checked = 0;
    for region in PHONE_NUMBER_UTIL.get_supported_regions() {
        let Ok(example) =
            PHONE_NUMBER_UTIL.get_example_number_for_type_and_region(region, PhoneNumberType::Mobile)
        else {
            assert_eq!(region.to_string(), "TA", "Tristan da Cunha alone has no mobile network");
            continue;
        };
        let input = example.format_as(PhoneNumberFormat::E164).into_owned();
        let number = E164::parse(&input).unwrap_or_else(|error| panic!("{region} {input}: {error}"));
        assert!(number.operator_range().countries().contains(&number.country()), "{region}");
        checked += 1;
    }
    assert!(checked > 200, "{checked} countries");
}

#[test]
fn printing_shows_no_digit() {
    let number = E164::parse("+84981234567").unwrap();
    assert_eq!(format!("{number} {number:?} {number:#?}"), "[NUMBER] [NUMBER] [NUMBER]");
}

#[test]
fn ranges_know_their_countries() {
    let countries = |digits: &str| {
        let range: OperatorRange = digits.parse().unwrap();
        range.countries().iter().map(Country::as_str).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(countries("84"), "VN");
    assert_eq!(countries("8498"), "VN");
    assert_eq!(countries("849"), "VN");
    assert_eq!(countries("49"), "DE");
    assert!(countries("1").contains("US") && countries("1").contains("CA"));
    assert!(countries("8").contains("VN") && countries("8").contains("JP"));
    assert_eq!(countries("84981"), "", "finer than any range");
    assert_eq!(countries("1212"), "", "finer than any range");
    assert_eq!(countries("999"), "");
}

#[test]
fn ranges_and_countries_refuse_other_text() {
    for bad in ["", "+84", "84a", "12345678", "084", "٨٤"] {
        assert_eq!(bad.parse::<OperatorRange>(), Err(InvalidOperatorRange), "{bad}");
    }
    for bad in ["", "V", "vn", "VNM", "UK", "XX", "001", "Vn"] {
        assert_eq!(bad.parse::<Country>(), Err(InvalidCountry), "{bad}");
    }
    let long: OperatorRange = "8498".parse().unwrap();
    assert!(long.starts_with(&"84".parse().unwrap()) && long.starts_with(&long));
    assert!(!long.starts_with(&"85".parse().unwrap()) && !long.starts_with(&"84981".parse().unwrap()));
}

proptest! {
    #[test]
    fn errors_never_contain_the_input(digits in "[0-9]{5,17}", plus in any::<bool>()) {
        let input = format!("{}{digits}", if plus { "+" } else { "" });
        if let Err(error) = E164::parse(&input) {
            let printed = format!("{error} {error:?}");
            prop_assert!(!printed.contains(&digits));
        }
    }

    #[test]
    fn parsing_never_panics_and_never_rewrites(input in "\\PC{0,24}|\\+[0-9]{7,15}|\\+84[0-9]{9,10}") {
        if let Ok(number) = E164::parse(&input) {
            prop_assert_eq!(format!("+{}", number.digits()), input);
            prop_assert!(number.digits().starts_with(number.operator_range().as_str()));
            prop_assert!(number.operator_range().countries().contains(&number.country()));
        }
    }

    #[test]
    fn ranges_survive_text(digits in "[1-9][0-9]{0,6}") {
        let range: OperatorRange = digits.parse().unwrap();
        prop_assert_eq!(range.to_string(), digits);
    }
}

#[test]
fn a_masked_number_shows_country_code_first_digit_and_the_last_two() {
    for (number, shown) in [
        ("+84981234512", "+84 9•• ••• •12"),
        ("+12125550123", "+1 2•• ••• ••23"),
        ("+4915112345678", "+49 1•• ••• ••• 78"),
        // Seven digits in all: the first one stays hidden.
        ("+6737123456", "+673 ••• ••56"),
    ] {
        assert_eq!(E164::parse(number).unwrap().masked().to_string(), shown);
    }
}

proptest! {
    #[test]
    fn a_masked_number_shows_no_more_whatever_the_number(national in "[1-9][0-9]{3,13}", code in 0_usize..6) {
        let code = ["84", "1", "49", "673", "225", "86"][code];
        let Ok(number) = E164::parse(&format!("+{code}{national}")) else { return Ok(()) };
        let masked = number.masked();
        let shown = masked.to_string();
        let rest = shown.strip_prefix(&format!("+{code}")).unwrap();
        let signs: Vec<char> = rest.chars().filter(|sign| *sign != ' ').collect();
        prop_assert_eq!(signs.len(), national.len());
        let digits = signs.iter().filter(|sign| sign.is_ascii_digit()).count();
        prop_assert_eq!(digits, if national.len() >= 8 { 3 } else { 2 });
        // What is shown is of the number, each digit in its place.
        for (sign, digit) in signs.iter().zip(national.chars()) {
            prop_assert!(*sign == digit || *sign == '•');
        }
        prop_assert_eq!(format!("{masked:?}"), shown);
    }
}
