//! Structured fields (RFC 9651), as far as caching needs them: dictionaries, lists, inner lists; parameters are read and
//! dropped. Parsing is strict: one error makes the whole field unreadable, as the RFC wants it.

use http::HeaderMap;
use http::HeaderName;

/// More members than this make a field unreadable: nobody needs them.
const MEMBERS_MAX: usize = 256;

/// A bare item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// `12`.
    Integer(i64),
    /// `"text"`.
    String(String),
    /// `word`.
    Token(String),
    /// `?0`, `?1`, or a key without a value.
    Boolean(bool),
    /// A decimal, a byte sequence or a date: well-formed, and of no use here.
    Other,
}

/// What stands in a list or behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// One item.
    Item(Item),
    /// `(a b c)`.
    Inner(Vec<Item>),
}

/// All lines of the field as a dictionary; of equal keys the last counts. `None` if it is none.
#[must_use]
pub fn dictionary(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<(String, Member)>> {
    let text = joined(headers, name)?;
    let mut reader = Reader { rest: text.trim_matches(' ').as_bytes() };
    let mut members: Vec<(String, Member)> = Vec::new();
    while !reader.rest.is_empty() {
        let key = reader.key()?;
        let member = if reader.take(b'=') {
            reader.member()?
        } else {
            reader.parameters()?;
            Member::Item(Item::Boolean(true))
        };
        members.retain(|(known, _)| *known != key);
        members.push((key, member));
        if members.len() > MEMBERS_MAX {
            return None;
        }
        reader.comma()?;
    }
    Some(members)
}

/// All lines of the field as a list; `None` if it is none.
#[must_use]
pub fn list(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<Member>> {
    let text = joined(headers, name)?;
    let mut reader = Reader { rest: text.trim_matches(' ').as_bytes() };
    let mut members = Vec::new();
    while !reader.rest.is_empty() {
        members.push(reader.member()?);
        if members.len() > MEMBERS_MAX {
            return None;
        }
        reader.comma()?;
    }
    Some(members)
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut text = String::new();
    for (at, line) in headers.get_all(name).iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(line.to_str().ok()?);
    }
    Some(text)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn spaces(&mut self) {
        while self.take(b' ') {}
    }

    fn run(&mut self, such: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !such(*byte)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest;
        run
    }

    /// The end, or a comma with something behind it.
    fn comma(&mut self) -> Option<()> {
        self.run(|byte| matches!(byte, b' ' | b'\t'));
        if self.rest.is_empty() {
            return Some(());
        }
        if !self.take(b',') {
            return None;
        }
        self.run(|byte| matches!(byte, b' ' | b'\t'));
        (!self.rest.is_empty()).then_some(())
    }

    fn key(&mut self) -> Option<String> {
        if !matches!(self.rest.first()?, b'a'..=b'z' | b'*') {
            return None;
        }
        let key = self.run(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'));
        Some(text(key))
    }

    fn member(&mut self) -> Option<Member> {
        let member = if self.take(b'(') {
            let mut items = Vec::new();
            loop {
                self.spaces();
                if self.take(b')') {
                    break;
                }
                items.push(self.item()?);
                self.parameters()?;
                if items.len() > MEMBERS_MAX || !matches!(self.rest.first()?, b' ' | b')') {
                    return None;
                }
            }
            Member::Inner(items)
        } else {
            Member::Item(self.item()?)
        };
        self.parameters()?;
        Some(member)
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(b';') {
            self.spaces();
            self.key()?;
            if self.take(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    fn item(&mut self) -> Option<Item> {
        match *self.rest.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'A'..=b'Z' | b'a'..=b'z' | b'*' => {
                Some(Item::Token(text(self.run(|byte| is_tchar(byte) || matches!(byte, b':' | b'/')))))
            }
            b'?' => {
                self.take(b'?');
                let truth = self.take(b'1');
                (truth || self.take(b'0')).then_some(Item::Boolean(truth))
            }
            b':' => {
                self.take(b':');
                self.run(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
                self.take(b':').then_some(Item::Other)
            }
            b'@' => {
                self.take(b'@');
                matches!(self.number()?, Item::Integer(_)).then_some(Item::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Item> {
        let negative = self.take(b'-');
        let digits = self.run(|byte| byte.is_ascii_digit());
        if digits.is_empty() || digits.len() > 15 {
            return None;
        }
        if self.take(b'.') {
            let fraction = self.run(|byte| byte.is_ascii_digit());
            return (digits.len() <= 12 && (1..=3).contains(&fraction.len())).then_some(Item::Other);
        }
        let number: i64 = text(digits).parse().ok()?;
        Some(Item::Integer(if negative { -number } else { number }))
    }

    fn string(&mut self) -> Option<Item> {
        self.take(b'"');
        let mut content = String::new();
        loop {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return Some(Item::String(content)),
                b'\\' => {
                    let (escaped, rest) = self.rest.split_first()?;
                    if !matches!(escaped, b'"' | b'\\') {
                        return None;
                    }
                    self.rest = rest;
                    content.push(char::from(*escaped));
                }
                0x20..=0x7e => content.push(char::from(*byte)),
                _ => return None,
            }
        }
    }
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Bytes that are known to be ASCII.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn field(lines: &[&str]) -> (HeaderMap, HeaderName) {
        let name = HeaderName::from_static("x-field");
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), HeaderValue::from_str(line).unwrap());
        }
        (headers, name)
    }

    #[test]
    fn dictionaries_are_read_strictly() {
        let read = |lines: &[&str]| {
            let (headers, name) = field(lines);
            dictionary(&headers, &name).map(|members| {
                members.iter().map(|(key, member)| format!("{key}={member:?}")).collect::<Vec<_>>().join(" ")
            })
        };
        for (lines, expected) in [
            (&["max-age=60, no-store"][..], Some("max-age=Item(Integer(60)) no-store=Item(Boolean(true))")),
            (&["a=1", "a=2;x=y"], Some("a=Item(Integer(2))")),
            (&["a=(\"x\" y);p, b=?0"], Some("a=Inner([String(\"x\"), Token(\"y\")]) b=Item(Boolean(false))")),
            (&["a=1.5, b=:YQ==:, c=@7"], Some("a=Item(Other) b=Item(Other) c=Item(Other)")),
            (&[""], Some("")),
            (&["a=1,"], None),
            (&["a =1"], None),
            (&["A=1"], None),
            (&["a= 1"], None),
            (&["a=1, &&&&&"], None),
            (&["a=\"x"], None),
            (&["a=(1"], None),
            (&["a=1234567890123456"], None),
        ] {
            assert_eq!(read(lines).as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn lists_hold_items_in_their_order() {
        let (headers, name) = field(&["\"a\", \"b\\\"c\"", "d;q=1"]);
        let expected = [Item::String("a".into()), Item::String("b\"c".into()), Item::Token("d".into())];
        assert_eq!(list(&headers, &name), Some(expected.map(Member::Item).to_vec()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let name = HeaderName::from_static("x-field");
                let headers: HeaderMap = [(name.clone(), value)].into_iter().collect();
                let _ = (list(&headers, &name), dictionary(&headers, &name));
            }
        }
    }
}
