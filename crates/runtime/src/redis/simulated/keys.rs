//! Keys and what they hold.

use std::collections::{BTreeMap, BTreeSet};

use redis::{RedisResult, Value};

use super::refusal;

#[derive(Clone, Debug)]
enum Held {
    Text(Vec<u8>),
    Set(BTreeSet<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Sorted(BTreeMap<Vec<u8>, i64>),
}

/// Everything in the server: each key with the time of its end.
#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<Vec<u8>, (Held, Option<i64>)>);

type Words<'a> = &'a [Vec<u8>];

fn number(word: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(word).ok()?;
    match text {
        "-inf" => Some(i64::MIN),
        "+inf" => Some(i64::MAX),
        _ => text.parse().ok(),
    }
}

fn text(word: &[u8]) -> Value {
    Value::BulkString(word.to_vec())
}

fn count(number: usize) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

impl Keys {
    pub(super) fn run(&mut self, now: i64, name: &str, words: Words<'_>) -> RedisResult<Value> {
        self.0.retain(|_, (_, until)| until.is_none_or(|until| until > now));
        let key = words.first().cloned().unwrap_or_default();
        let rest = words.get(1..).unwrap_or_default();
        let how_many = |of: &dyn Fn(&Vec<u8>) -> bool| count(rest.iter().filter(|word| of(word)).count());
        let found = match name {
            "GET" => Some(self.get(&key)),
            "MGET" => Some(Value::Array(words.iter().map(|key| self.get(key)).collect())),
            "SET" => self.set(now, key, rest),
            "DEL" => Some(count(words.iter().filter(|key| self.0.remove(*key).is_some()).count())),
            "EXISTS" => Some(count(words.iter().filter(|key| self.0.contains_key(*key)).count())),
            "PEXPIRE" => self.expire(now, &key, rest),
            "SADD" => {
                self.set_of(key).map(|set| count(rest.iter().filter(|it| set.insert((*it).clone())).count()))
            }
            "SREM" => self.set_of(key).map(|set| count(rest.iter().filter(|it| set.remove(*it)).count())),
            "SCARD" => self.set_of(key).map(|set| count(set.len())),
            "SMEMBERS" => self.set_of(key).map(|set| Value::Array(set.iter().map(|it| text(it)).collect())),
            "HSET" => self.hash_of(key).map(|hash| {
                let pairs = rest.as_chunks::<2>().0.iter();
                count(
                    pairs.filter(|[name, value]| hash.insert(name.clone(), value.clone()).is_none()).count(),
                )
            }),
            "HDEL" => self
                .hash_of(key)
                .map(|hash| count(rest.iter().filter(|it| hash.remove(*it).is_some()).count())),
            "HEXISTS" => self.hash_of(key).map(|hash| how_many(&|name| hash.contains_key(name))),
            "HLEN" => self.hash_of(key).map(|hash| count(hash.len())),
            "HGETALL" => self.hash_of(key).map(|hash| {
                Value::Array(hash.iter().flat_map(|(name, value)| [text(name), text(value)]).collect())
            }),
            "ZADD" => self.zadd(key, rest),
            "ZREM" => self
                .sorted_of(key)
                .map(|set| count(rest.iter().filter(|it| set.remove(*it).is_some()).count())),
            "ZRANGEBYSCORE" => self.zrange(key, rest),
            _ => None,
        };
        // A set without members is no key.
        self.0.retain(|_, (held, _)| match held {
            Held::Text(_) => true,
            Held::Set(set) => !set.is_empty(),
            Held::Hash(hash) => !hash.is_empty(),
            Held::Sorted(set) => !set.is_empty(),
        });
        found.ok_or_else(|| {
            tracing::error!(name, "the simulated Redis does not know this command in this form");
            refusal("ERR", "not known in this form")
        })
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.0.retain(|key, _| !String::from_utf8_lossy(key).contains(name));
    }

    fn get(&self, key: &[u8]) -> Value {
        match self.0.get(key) {
            Some((Held::Text(value), _)) => text(value),
            Some((Held::Set(_) | Held::Hash(_) | Held::Sorted(_), _)) | None => Value::Nil,
        }
    }

    fn set(&mut self, now: i64, key: Vec<u8>, words: Words<'_>) -> Option<Value> {
        let (value, mut options) = (words.first()?.clone(), words.get(1..)?.iter());
        let there = self.0.contains_key(&key);
        let (mut until, mut before, mut written) = (None, None, true);
        while let Some(option) = options.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"NX" => written = !there,
                b"XX" => written = there,
                b"GET" => before = Some(self.get(&key)),
                b"PX" => until = Some(now.saturating_add(number(options.next()?)?)),
                _ => return None,
            }
        }
        if written {
            self.0.insert(key, (Held::Text(value), until));
        }
        Some(before.unwrap_or(if written { Value::Okay } else { Value::Nil }))
    }

    fn expire(&mut self, now: i64, key: &[u8], words: Words<'_>) -> Option<Value> {
        let until = now.saturating_add(number(words.first()?)?);
        let found = self.0.get_mut(key).map(|(_, end)| *end = Some(until));
        Some(Value::Int(i64::from(found.is_some())))
    }

    fn set_of(&mut self, key: Vec<u8>) -> Option<&mut BTreeSet<Vec<u8>>> {
        match &mut self.0.entry(key).or_insert((Held::Set(BTreeSet::new()), None)).0 {
            Held::Set(set) => Some(set),
            Held::Text(_) | Held::Hash(_) | Held::Sorted(_) => None,
        }
    }

    fn hash_of(&mut self, key: Vec<u8>) -> Option<&mut BTreeMap<Vec<u8>, Vec<u8>>> {
        match &mut self.0.entry(key).or_insert((Held::Hash(BTreeMap::new()), None)).0 {
            Held::Hash(hash) => Some(hash),
            Held::Text(_) | Held::Set(_) | Held::Sorted(_) => None,
        }
    }

    fn sorted_of(&mut self, key: Vec<u8>) -> Option<&mut BTreeMap<Vec<u8>, i64>> {
        match &mut self.0.entry(key).or_insert((Held::Sorted(BTreeMap::new()), None)).0 {
            Held::Sorted(set) => Some(set),
            Held::Text(_) | Held::Set(_) | Held::Hash(_) => None,
        }
    }

    fn zadd(&mut self, key: Vec<u8>, words: Words<'_>) -> Option<Value> {
        let only_known = words.first()?.eq_ignore_ascii_case(b"XX");
        let pairs = if only_known { words.get(1..)? } else { words };
        let set = self.sorted_of(key)?;
        let mut added = 0;
        for [score, member] in pairs.as_chunks::<2>().0 {
            let score = number(score)?;
            match set.get_mut(member) {
                Some(known) => *known = score,
                None if only_known => {}
                None => {
                    set.insert(member.clone(), score);
                    added += 1;
                }
            }
        }
        Some(count(added))
    }

    /// `key min max LIMIT offset count`
    fn zrange(&mut self, key: Vec<u8>, words: Words<'_>) -> Option<Value> {
        let (min, max) = (number(words.first()?)?, number(words.get(1)?)?);
        let most = words.get(4).and_then(|most| number(most)).unwrap_or(i64::MAX);
        let set = self.sorted_of(key)?;
        let mut found: Vec<_> = set.iter().filter(|(_, score)| (min..=max).contains(score)).collect();
        found.sort_by_key(|(member, score)| (**score, (*member).clone()));
        let found = found.into_iter().take(usize::try_from(most).unwrap_or(usize::MAX));
        Some(Value::Array(found.map(|(member, _)| text(member)).collect()))
    }
}
