//! Topic patterns: words joined by dots, `*` for exactly one word, `#` for any number of words, none included.
//!
//! The rules are RabbitMQ's for topic exchanges, with `#` allowed anywhere. Matching allocates nothing and takes at most
//! `words of the pattern * words of the topic` steps, however many `#` there are.

use std::fmt;

use crate::name::TOPIC_BYTES_MAX;

/// A pattern that topics are compared with.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    words: Box<[Word]>,
    /// How many bytes at the start of `text` every matching topic starts with: a cheap first look.
    literal_bytes: usize,
}

#[derive(Clone, PartialEq, Eq)]
enum Word {
    Literal(Box<str>),
    One,
    Any,
}

impl Word {
    fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(text) => Some(text),
            Self::One | Self::Any => None,
        }
    }
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PatternError {
    /// The bytes of the text that are wrong.
    pub span: std::ops::Range<usize>,
    /// What is wrong with them.
    pub reason: String,
    /// What to write instead.
    pub help: String,
}

impl Pattern {
    /// The pattern that `text` spells: up to 255 bytes, words of `A-Z a-z 0-9 _ -`, or `*`, or `#`.
    ///
    /// # Errors
    /// [`PatternError`] with the place in `text`.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let whole = |reason: String| PatternError {
            span: 0..text.len(),
            reason,
            help: "write words joined by dots, such as \"orders.created\", \"orders.*\" or \"orders.#\"".into(),
        };
        if text.is_empty() {
            return Err(whole("the topic pattern is empty".into()));
        }
        if text.len() > TOPIC_BYTES_MAX {
            return Err(whole(format!(
                "the topic pattern has {} bytes; at most {TOPIC_BYTES_MAX} are allowed",
                text.len()
            )));
        }
        let mut words = Vec::new();
        let mut literal_bytes = None;
        let mut start = 0;
        for word in text.split('.') {
            let parsed = parse_word(text, start, word)?;
            if literal_bytes.is_none() && !matches!(parsed, Word::Literal(_)) {
                // `orders.#` matches `orders` too: the dot before '#' is not part of what is sure to be there.
                literal_bytes = Some(if parsed == Word::Any { start.saturating_sub(1) } else { start });
            }
            // `#.#` says no more than `#`.
            if parsed != Word::Any || words.last() != Some(&Word::Any) {
                words.push(parsed);
            }
            start += word.len() + 1;
        }
        let literal_bytes = literal_bytes.unwrap_or(text.len());
        Ok(Self { text: text.into(), words: words.into(), literal_bytes })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The one topic that the pattern matches, if it has no wildcard.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        (self.literal_bytes == self.text.len()).then_some(&*self.text)
    }

    /// Whether `topic` matches.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        if !topic.as_bytes().starts_with(&self.text.as_bytes()[..self.literal_bytes]) {
            return false;
        }
        let mut at = 0;
        let mut rest = Some(topic);
        // Where to go on when the last '#' has to take one word more. An earlier '#' never has to: what it could take
        // besides, the last one can take as well.
        let mut retry: Option<(usize, Option<&str>)> = None;
        loop {
            match (self.words.get(at), rest) {
                (Some(Word::Any), _) => {
                    at += 1;
                    retry = Some((at, rest));
                    continue;
                }
                (Some(word), Some(text)) => {
                    let (first, tail) = split_word(text);
                    if *word == Word::One || matches!(word, Word::Literal(literal) if **literal == *first) {
                        at += 1;
                        rest = tail;
                        continue;
                    }
                }
                (None, None) => return true,
                _ => {}
            }
            let Some((resume, Some(text))) = retry else { return false };
            at = resume;
            rest = split_word(text).1;
            retry = Some((resume, rest));
        }
    }
}

impl Pattern {
    /// Whether there is a topic that both match.
    ///
    /// Takes `words of one * words of the other` steps.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        // By how many words of `other` are taken: whether they and the words of `self` so far match a topic together.
        let mut meets = vec![true];
        for (at, word) in other.words.iter().enumerate() {
            meets.push(meets[at] && *word == Word::Any);
        }
        for one in &self.words {
            let mut both_less = meets[0];
            meets[0] &= *one == Word::Any;
            for (at, word) in other.words.iter().enumerate() {
                let one_less = meets[at + 1];
                meets[at + 1] = match (one, word) {
                    // It takes nothing, or what stands against it.
                    (Word::Any, _) | (_, Word::Any) => one_less || meets[at],
                    (Word::Literal(one), Word::Literal(word)) => both_less && one == word,
                    _ => both_less,
                };
                both_less = one_less;
            }
        }
        meets[other.words.len()]
    }

    /// How many slips lie between `topic` and a topic that this pattern matches; none: it is meant for other topics.
    ///
    /// Words in the place of wildcards are no slips, and say nothing about being near.
    pub(crate) fn slips(&self, topic: &str) -> Option<usize> {
        let literal_bytes: usize = self.words.iter().map(|word| word.literal().map_or(0, str::len)).sum();
        let most = (literal_bytes / 3).max(1);
        let likest = self.likest(topic);
        if likest.len().abs_diff(topic.len()) > most {
            return None;
        }
        Some(strsim::damerau_levenshtein(topic, &likest)).filter(|slips| *slips <= most)
    }

    /// The topic that this pattern matches and that is likest to `topic` word by word: wildcards become the words of `topic`
    /// that stand in their place.
    fn likest(&self, topic: &str) -> String {
        let given: Vec<&str> = topic.split('.').collect();
        let fixed = self.words.iter().filter(|word| **word != Word::Any).count();
        // What the first '#' takes; further ones, if any, take nothing.
        let mut spare = given.len().saturating_sub(fixed);
        let mut rest = given.iter().copied();
        let mut words = Vec::with_capacity(given.len());
        for word in &self.words {
            match word {
                Word::Literal(literal) => {
                    rest.next();
                    words.push(&**literal);
                }
                Word::One => words.push(rest.next().unwrap_or("*")),
                Word::Any => words.extend(rest.by_ref().take(std::mem::take(&mut spare))),
            }
        }
        words.join(".")
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

fn split_word(text: &str) -> (&str, Option<&str>) {
    text.split_once('.').map_or((text, None), |(first, tail)| (first, Some(tail)))
}

fn parse_word(text: &str, start: usize, word: &str) -> Result<Word, PatternError> {
    match word {
        "*" => return Ok(Word::One),
        "#" => return Ok(Word::Any),
        "" => {
            // The dot that has no word beside it; the pattern itself is not empty, so there is one.
            let dot = if start < text.len() { start } else { start - 1 };
            return Err(PatternError {
                span: dot..dot + 1,
                reason: format!("the topic pattern '{text}' has an empty word"),
                help: "leave out the dot, or write '*' for any one word".into(),
            });
        }
        _ => {}
    }
    let Some((at, bad)) = word.char_indices().find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))
    else {
        return Ok(Word::Literal(word.into()));
    };
    let span = start + at..start + at + bad.len_utf8();
    let (reason, help) = if matches!(bad, '*' | '#') {
        let kind = if bad == '*' { "one whole word" } else { "any number of whole words" };
        (
            format!("'{bad}' stands for {kind}; it can't be part of the word '{word}'"),
            format!("write '{bad}' between dots"),
        )
    } else {
        let help = "words have letters a-z and A-Z, digits, '_' and '-', with dots between them; '*' is one word, '#' any number";
        (format!("the topic pattern '{text}' contains {bad:?}"), help.to_owned())
    };
    Err(PatternError { span, reason, help })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let pattern = Pattern::new(pattern).expect("a pattern");
        for topic in matching {
            assert!(pattern.matches(topic), "{pattern} does not match {topic}");
        }
        for topic in others {
            assert!(!pattern.matches(topic), "{pattern} matches {topic}");
        }
    }

    #[test]
    fn words_match_as_in_rabbitmq() {
        check("a.b", &["a.b"], &["a", "a.b.c", "a.c", "b.a", "ab", "a.bc"]);
        check("*", &["a", "bb"], &["a.b"]);
        check("a.*", &["a.b", "a.c"], &["a", "a.b.c", "b.a", "ab.c"]);
        check("*.b", &["a.b", "b.b"], &["b", "a.b.b"]);
        check("#", &["a", "a.b", "a.b.c"], &[]);
        check("a.#", &["a", "a.b", "a.b.c"], &["b", "b.a", "ab", "ab.c"]);
        check("#.z", &["z", "a.z", "a.b.z", "z.z"], &["a", "z.a", "zz"]);
        check("a.#.z", &["a.z", "a.b.z", "a.b.c.z", "a.z.z"], &["a", "z", "a.z.b", "az"]);
        check("a.*.#.z", &["a.b.z", "a.z.z", "a.b.c.z"], &["a.z", "a.b"]);
        check("#.m.#", &["m", "a.m", "m.a", "a.m.b", "m.m"], &["a", "a.b", "am"]);
        check("#.a.#.b.*", &["a.b.c", "x.a.x.b.c", "a.b.b.c", "a.b.c.b.d"], &["a.b", "b.a.c", "a.b.c.d"]);
        check("#.#", &["a", "a.b"], &[]);
        check("*.#", &["a", "a.b", "a.b.c"], &[]);
        check("#.*", &["a", "a.b", "a.b.c"], &[]);
    }

    #[test]
    fn patterns_meet_where_a_topic_matches_both() {
        let pool = ["a", "b", "a.b", "b.a", "a.b.c", "a.a.b", "c.b.a.c", "a.b.a.b", "x.c"];
        let patterns =
            ["#", "*", "a", "a.*", "*.b", "#.b", "a.#", "a.#.b", "*.*", "*.#.c", "#.a.#", "b.#.a", "x.*.*.*.*"];
        for one in patterns {
            for other in patterns {
                let pattern = |text| Pattern::new(text).expect("a pattern");
                let (a, b) = (pattern(one), pattern(other));
                let witness = pool.iter().find(|topic| a.matches(topic) && b.matches(topic));
                assert!(a.meets(&b) || witness.is_none(), "{one} and {other} both match {witness:?}");
                assert_eq!(a.meets(&b), b.meets(&a), "{one} and {other}");
            }
        }
        let meet = |one: &str, other: &str| Pattern::new(one).and_then(|one| Ok(one.meets(&Pattern::new(other)?)));
        for (one, other) in
            [("a.*", "*.b"), ("a.#", "#.z"), ("#", "q.r.s"), ("a.#.b", "a.b"), ("*.#", "#.*"), ("a.#.#.b", "a.x.b")]
        {
            assert_eq!(meet(one, other), Ok(true), "{one} and {other}");
        }
        for (one, other) in
            [("a", "b"), ("a.*", "a"), ("a.#", "b.#"), ("*.*", "a.b.c"), ("a.#.b", "a.#.c"), ("*", "a.#.b")]
        {
            assert_eq!(meet(one, other), Ok(false), "{one} and {other}");
        }
    }

    #[test]
    fn many_hashes_take_no_exponential_time() {
        let pattern = Pattern::new(&format!("{}b", "#.a.".repeat(60))).expect("a pattern");
        assert!(!pattern.matches(&"a.".repeat(127)[..253]));
    }

    #[test]
    fn only_patterns_without_wildcards_are_exact() {
        assert_eq!(Pattern::new("a.b").map(|p| p.exact().map(str::to_owned)), Ok(Some("a.b".to_owned())));
        for text in ["*", "#", "a.*", "a.#", "#.a"] {
            assert_eq!(Pattern::new(text).map(|p| p.exact().map(str::to_owned)), Ok(None), "{text}");
        }
    }

    #[test]
    fn errors_point_at_the_place() {
        let check = |text: &str, span: std::ops::Range<usize>, reason: &str| {
            let error = Pattern::new(text).expect_err(text);
            assert_eq!((error.span.clone(), error.reason.as_str()), (span, reason), "{text}");
        };
        check("", 0..0, "the topic pattern is empty");
        check("a..b", 2..3, "the topic pattern 'a..b' has an empty word");
        check("a.", 1..2, "the topic pattern 'a.' has an empty word");
        check(".a", 0..1, "the topic pattern '.a' has an empty word");
        check("a.b*", 3..4, "'*' stands for one whole word; it can't be part of the word 'b*'");
        check("##", 0..1, "'#' stands for any number of whole words; it can't be part of the word '##'");
        check("a.b c", 3..4, "the topic pattern 'a.b c' contains ' '");
        check("h\u{e9}", 1..3, "the topic pattern 'h\u{e9}' contains '\u{e9}'");
        check(&"x".repeat(256), 0..256, "the topic pattern has 256 bytes; at most 255 are allowed");
    }
}
