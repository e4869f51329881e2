//! One cookie among those of a request (RFC 6265 4.2.1): looked up by name, or taken out.

use http::HeaderMap;
use http::HeaderValue;
use http::header;

/// The value of the first cookie called `name`.
#[must_use]
pub fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut pairs = headers.get_all(header::COOKIE).iter().flat_map(|line| pairs(line.as_bytes()));
    pairs.find_map(|pair| value_of(pair, name))
}

/// Takes all cookies called `name` out of the request; others stay as they are.
pub fn remove(headers: &mut HeaderMap, name: &str) {
    if value(headers, name).is_none() {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| {
            let rest: Vec<&[u8]> = pairs(line.as_bytes()).filter(|pair| value_of(pair, name).is_none()).collect();
            // Parts of a field's value are a field's value.
            HeaderValue::from_bytes(&rest.join(&b"; "[..])).ok().filter(|line| !line.is_empty())
        })
        .collect();
    headers.remove(header::COOKIE);
    for line in kept {
        headers.append(header::COOKIE, line);
    }
}

fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let lines = lines.iter().map(|line| (header::COOKIE, HeaderValue::from_str(line).unwrap()));
        let mut headers = HeaderMap::new();
        headers.extend(lines);
        headers
    }

    #[test]
    fn one_cookie_is_found_and_taken_out_among_others() {
        for (lines, found, left) in [
            (&["a=1; way=x; b=2"][..], Some("x"), &["a=1; b=2"][..]),
            (&["way=x"], Some("x"), &[]),
            (&["noway=x; away=y"], None, &["noway=x; away=y"]),
            (&["a=1", "way=; way=z", "c"], Some(""), &["a=1", "c"]),
            (&[], None, &[]),
        ] {
            let mut headers = headers(lines);
            assert_eq!(value(&headers, "way"), found.map(str::as_bytes), "{lines:?}");
            remove(&mut headers, "way");
            let rest: Vec<&str> = headers.get_all(header::COOKIE).iter().map(|line| line.to_str().unwrap()).collect();
            assert_eq!(rest, left, "{lines:?}");
        }
    }
}
