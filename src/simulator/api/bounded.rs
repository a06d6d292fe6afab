//! Lists of outside length that end at a limit, so that a small body cannot unfold into a large memory.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// At most `MAX` values; one more is a mistake of the sender. `null` reads as an empty list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded<T, const MAX: usize>(pub Vec<T>);

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Bounded(Vec::new())
    }
}

impl<T, const MAX: usize> Bounded<T, MAX> {
    /// Reads the rest of a list that begins with `first`.
    pub fn gather<'de, A: SeqAccess<'de>>(first: Vec<T>, mut list: A) -> Result<Self, A::Error>
    where
        T: Deserialize<'de>,
    {
        let mut values = first;
        while let Some(value) = list.next_element()? {
            if values.len() >= MAX {
                return Err(Error::custom(format_args!("a list has more than {MAX} entries")));
            }
            values.push(value);
        }
        Ok(Bounded(values))
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Bounded<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} entries")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Bounded::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Bounded::gather(Vec::new(), list)
            }
        }
        deserializer.deserialize_any(List(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_too_many_is_a_mistake() {
        let read = |text: &str| serde_json::from_str::<Bounded<u32, 2>>(text);
        assert_eq!(read("[1,2]").unwrap().0, [1, 2]);
        assert!(read("null").unwrap().0.is_empty());
        assert!(
            read("[1,2,3]")
                .unwrap_err()
                .to_string()
                .contains("more than 2 entries")
        );
        assert!(read("{}").is_err());
    }
}
