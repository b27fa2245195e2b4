//! The format of DNS messages, as far as a small server needs it: RFC 1035, section 4.

use std::net::IpAddr;

/// Type of a question for IPv4 addresses.
pub const A: u16 = 1;
/// Type of a question for IPv6 addresses (RFC 3596).
pub const AAAA: u16 = 28;
/// Class of the Internet.
const IN: u16 = 1;
/// There is no such name.
pub const NAME_ERROR: u8 = 3;
/// Somebody else may know.
pub const SERVER_FAILURE: u8 = 2;

/// Bytes of the header.
const HEADER: usize = 12;
/// Seconds for which an answer may be kept: pods come and go.
const TIME_TO_LIVE: u32 = 5;
/// Most addresses in an answer, so that it fits into the 512 bytes that everybody takes.
const MAX_ADDRESSES: usize = 8;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Name, in lower case and without a dot at its end.
    pub name: String,
    /// Type.
    pub kind: u16,
    /// Where the question ends in the message.
    end: usize,
}

/// The only question of a query; `None` for everything else.
pub fn question(query: &[u8]) -> Option<Question> {
    let header = query.get(..HEADER)?;
    // A query (QR and opcode 0) with one question.
    if header[2] & 0xf8 != 0 || u16::from_be_bytes([header[4], header[5]]) != 1 {
        return None;
    }
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => break,
            // Longer ones are references, which a question has no use for.
            1..=63 => labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase()),
            _ => return None,
        }
        at += length;
    }
    let rest = query.get(at..at + 4)?;
    let (kind, class) = (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]));
    (class == IN).then(|| Question { name: labels.join("."), kind, end: at + 4 })
}

/// The answer to a query: those of the addresses that have the type which is asked for. None of them is an answer too.
pub fn answer(query: &[u8], question: &Question, addresses: &[IpAddr]) -> Vec<u8> {
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match (address, question.kind) {
            (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
            (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
            _ => None,
        })
        .take(MAX_ADDRESSES)
        .collect();
    let mut message = begin(query, question, 0, records.len() as u16);
    for data in records {
        // The name is that of the question, at the end of the header.
        message.extend((0xc000 | HEADER as u16).to_be_bytes());
        message.extend(question.kind.to_be_bytes());
        message.extend(IN.to_be_bytes());
        message.extend(TIME_TO_LIVE.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
    }
    message
}

/// An answer that says why there is none.
pub fn refusal(query: &[u8], question: &Question, code: u8) -> Vec<u8> {
    begin(query, question, code, 0)
}

/// Header and question of an answer.
fn begin(query: &[u8], question: &Question, code: u8, count: u16) -> Vec<u8> {
    let mut message = query[..2].to_vec();
    // An answer (QR) with authority (AA); whether recursion is wanted is repeated, and that it is available (RA) is said.
    message.extend([0x84 | (query[2] & 0x01), 0x80 | code]);
    for number in [1, count, 0, 0] {
        message.extend(number.to_be_bytes());
    }
    message.extend(&query[HEADER..question.end]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `name`, with recursion.
    pub fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend(IN.to_be_bytes());
        message
    }

    #[test]
    fn a_question_is_read_and_answered_with_the_addresses_of_its_type() {
        let query = query("Web.Sub", A);
        let question = question(&query).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("web.sub", A));
        let addresses = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let message = answer(&query, &question, &addresses);
        assert_eq!(message[..12], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(message[12..query.len()], query[12..]);
        assert_eq!(message[query.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 1]);
        let none = answer(&query, &question, &addresses[1..]);
        assert_eq!(
            none[..12],
            [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 0, 0, 0, 0, 0],
            "a name without such an address"
        );
        assert_eq!(refusal(&query, &question, NAME_ERROR)[3], 0x83);
    }

    #[test]
    fn what_is_no_query_of_one_name_is_not_answered() {
        let good = query("a", A);
        for length in 0..good.len() {
            assert!(question(&good[..length]).is_none(), "cut at {length}");
        }
        for (at, value) in [(2, 0x80), (2, 0x08), (5, 2), (5, 0), (12, 0xc0), (good.len() - 1, 3)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(question(&bad).is_none(), "{at}: {value}");
        }
    }
}
