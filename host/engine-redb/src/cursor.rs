//! Where a page or a step ended, as text: what callers pass back unread.
//!
//! A text that is none of ours is an error of whoever passed it.

use pelton_core::engine::{Cursor, InvalidCursor, Select};

/// A place in the order of a queue: first what is ready by rank and position, then what waits behind its key, then what waits for its
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Behind this key of `ready`.
    Ready { rank: u8, position: u64 },
    /// Behind this key of `parked`.
    Parked { key: u64, position: u64 },
    /// Behind this key of `due`.
    Due { due: u64, position: u64 },
}

impl After {
    pub(crate) const START: Self = Self::Ready { rank: 0, position: 0 };
    pub(crate) const START_OF_PARKED: Self = Self::Parked { key: 0, position: 0 };
}

/// Where a step of a bulk change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// All messages: behind this one; those from position `before` on came later than the change.
    All { after: After, before: u64 },
    /// Listed positions: from this index on.
    Listed { index: usize },
    /// Listed positions of one step that were not found by position: search on by time.
    Search { index: usize, after: After },
}

/// The numbers behind the letter, if the text has exactly `N`.
fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    let mut parts = text.split('.');
    for number in &mut numbers {
        *number = u64::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

impl After {
    pub(crate) fn to_cursor(self) -> Cursor {
        Cursor(match self {
            Self::Ready { rank, position } => format!("r{rank:x}.{position:x}"),
            Self::Parked { key, position } => format!("p{key:x}.{position:x}"),
            Self::Due { due, position } => format!("d{due:x}.{position:x}"),
        })
    }

    /// Where a page begins.
    ///
    /// # Errors
    /// [`InvalidCursor`] when the text is no cursor of a page.
    pub(crate) fn of(cursor: Option<&Cursor>) -> Result<Self, InvalidCursor> {
        let Some(cursor) = cursor else { return Ok(Self::START) };
        Self::parse(&cursor.0).ok_or_else(|| InvalidCursor::new(cursor))
    }

    fn parse(text: &str) -> Option<Self> {
        match text.split_at_checked(1)? {
            ("r", rest) => {
                let [rank, position] = numbers(rest)?;
                Some(Self::Ready { rank: u8::try_from(rank).ok()?, position })
            }
            ("p", rest) => numbers(rest).map(|[key, position]| Self::Parked { key, position }),
            ("d", rest) => numbers(rest).map(|[due, position]| Self::Due { due, position }),
            _ => None,
        }
    }
}

impl Step {
    pub(crate) fn to_cursor(self) -> Cursor {
        Cursor(match self {
            Self::All { after, before } => format!("A{}.{before:x}", after.to_cursor().0),
            Self::Listed { index } => format!("L{index:x}"),
            Self::Search { index, after } => format!("S{index:x}.{}", after.to_cursor().0),
        })
    }

    /// Where a step of a change to the messages of `select` begins.
    ///
    /// # Errors
    /// [`InvalidCursor`] when the text is no cursor of such a change.
    pub(crate) fn of(cursor: &Cursor, select: &Select) -> Result<Self, InvalidCursor> {
        let fits = |step: &Self| matches!(step, Self::All { .. }) == matches!(select, Select::All);
        Self::parse(&cursor.0).filter(fits).ok_or_else(|| InvalidCursor::new(cursor))
    }

    fn parse(text: &str) -> Option<Self> {
        let index = |index: u64| usize::try_from(index).ok();
        match text.split_at_checked(1)? {
            ("A", rest) => {
                let (after, before) = rest.rsplit_once('.')?;
                let [before] = numbers(before)?;
                Some(Self::All { after: After::parse(after)?, before })
            }
            ("L", rest) => Some(Self::Listed { index: index(numbers::<1>(rest)?[0])? }),
            ("S", rest) => {
                let (at, after) = rest.split_once('.')?;
                Some(Self::Search { index: index(numbers::<1>(at)?[0])?, after: After::parse(after)? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_and_other_texts_are_refused() {
        let listed = Select::Positions(Vec::new());
        let ready = After::Ready { rank: 9, position: 77 };
        for after in
            [After::START, ready, After::Parked { key: 5, position: 6 }, After::Due { due: u64::MAX, position: 3 }]
        {
            assert_eq!(After::of(Some(&after.to_cursor())), Ok(after));
            let step = Step::All { after, before: 9 };
            assert_eq!(Step::of(&step.to_cursor(), &Select::All), Ok(step));
            assert!(Step::of(&step.to_cursor(), &listed).is_err(), "{step:?} is of another selection");
        }
        for step in [Step::Listed { index: 12 }, Step::Search { index: 1, after: After::Due { due: 2, position: 3 } }] {
            assert_eq!(Step::of(&step.to_cursor(), &listed), Ok(step));
            assert!(Step::of(&step.to_cursor(), &Select::All).is_err(), "{step:?} is of another selection");
        }
        for text in ["", "r", "rx", "r1", "r1ff.2", "d1", "p1", "q1", "\u{e9}1", "Ar1.2", "A1", "S1.2", "L"] {
            let cursor = Cursor(text.to_owned());
            let refused = InvalidCursor::new(&cursor);
            assert_eq!(After::of(Some(&cursor)), Err(refused.clone()), "{text:?}");
            assert_eq!(Step::of(&cursor, &Select::All), Err(refused.clone()), "{text:?}");
            assert_eq!(Step::of(&cursor, &listed), Err(refused), "{text:?}");
        }
    }
}
