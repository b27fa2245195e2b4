//! Questions to a name server and its answers: RFC 1035, over UDP, and over TCP where an answer is too long for that.

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// Port of name servers: RFC 1035, 4.2.
const PORT: u16 = 53;
/// Longest answer over UDP without extensions, in bytes: RFC 1035, 4.2.1.
const MAX_DATAGRAM: usize = 512;
/// The types of records that are asked for.
const TYPES: [TYPE; 2] = [TYPE::A, TYPE::AAAA];

/// What a server said to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Addresses; none if the name has no addresses of this kind, or does not exist.
    Addresses(Vec<IpAddr>),
    /// They do not fit.
    Truncated,
    /// It could not or would not answer.
    Refused,
}

/// Asks a server for the addresses of a full name.
pub async fn ask(server: IpAddr, name: &str) -> Result<Answer> {
    let server = SocketAddr::new(server, PORT);
    let mut all = Vec::new();
    for kind in TYPES {
        let (id, question) = question(name, kind)?;
        let answer = match over_udp(server, &question, id, name).await? {
            Answer::Truncated => over_tcp(server, &question, id, name).await?,
            answer => answer,
        };
        match answer {
            Answer::Addresses(found) => all.extend(found),
            other => return Ok(other),
        }
    }
    Ok(Answer::Addresses(all))
}

fn question(name: &str, kind: TYPE) -> Result<(u16, Vec<u8>)> {
    // Keys of hashers are random, and so is what they make of nothing.
    let id = RandomState::new().build_hasher().finish() as u16;
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(Error::other)?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind), CLASS::IN.into(), false));
    packet.build_bytes_vec().map(|bytes| (id, bytes)).map_err(Error::other)
}

async fn over_udp(server: SocketAddr, question: &[u8], id: u16, name: &str) -> Result<Answer> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // What others send is not received.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = [0u8; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else may be an answer to a question that was given up, or forged.
        if let Some(answer) = read(&buffer[..length], id, name) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8], id: u16, name: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[&(question.len() as u16).to_be_bytes(), question].concat()).await?;
    let mut buffer = vec![0u8; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    read(&buffer, id, name).ok_or_else(|| Error::from(ErrorKind::InvalidData))
}

/// The answer to the question for a name, if it is one.
fn read(message: &[u8], id: u16, name: &str) -> Option<Answer> {
    let packet = Packet::parse(message).ok()?;
    let same = |other: &Name<'_>| other.to_string().eq_ignore_ascii_case(name);
    let matches = packet.questions.iter().all(|question| same(&question.qname));
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) || !matches {
        return None;
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Some(Answer::Truncated);
    }
    if !matches!(packet.rcode(), RCODE::NoError | RCODE::NameError) {
        return Some(Answer::Refused);
    }
    let mut names = vec![name.to_ascii_lowercase()];
    let mut found = Vec::new();
    // Aliases come before what they lead to.
    for record in &packet.answers {
        if !names.contains(&record.name.to_string().to_ascii_lowercase()) {
            continue;
        }
        match &record.rdata {
            RData::CNAME(alias) => names.push(alias.0.to_string().to_ascii_lowercase()),
            RData::A(record) => found.push(Ipv4Addr::from(record.address).into()),
            RData::AAAA(record) => found.push(Ipv6Addr::from(record.address).into()),
            _ => {}
        }
    }
    Some(Answer::Addresses(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, CNAME};

    fn answer(id: u16, change: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
        let (_, asked) = question("web.example", TYPE::A).unwrap();
        let mut packet = Packet::parse(&asked).unwrap().into_reply();
        packet.set_id(id);
        let name = |name| Name::new(name).unwrap();
        let record = |owner, rdata| ResourceRecord::new(name(owner), CLASS::IN, 1, rdata);
        packet.answers = vec![
            record("WEB.example", RData::CNAME(CNAME(name("other.example")))),
            record("other.example", RData::A(A { address: u32::from(Ipv4Addr::new(192, 0, 2, 1)) })),
            record("stranger.example", RData::A(A { address: 1 })),
        ];
        change(&mut packet);
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn aliases_are_followed_and_strangers_are_not() {
        let found = read(&answer(7, |_| {}), 7, "web.example");
        assert_eq!(found, Some(Answer::Addresses(vec![[192, 0, 2, 1].into()])));
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_none() {
        assert_eq!(read(&answer(7, |_| {}), 8, "web.example"), None);
        assert_eq!(read(&answer(7, |_| {}), 7, "other.example"), None);
        assert_eq!(
            read(&answer(7, |packet| packet.remove_flags(PacketFlag::RESPONSE)), 7, "web.example"),
            None
        );
        assert_eq!(read(&answer(7, |_| {})[..20], 7, "web.example"), None);
    }

    #[test]
    fn a_server_can_refuse_and_cut_short() {
        let refused = answer(7, |packet| *packet.rcode_mut() = RCODE::ServerFailure);
        assert_eq!(read(&refused, 7, "web.example"), Some(Answer::Refused));
        let cut = answer(7, |packet| packet.set_flags(PacketFlag::TRUNCATION));
        assert_eq!(read(&cut, 7, "web.example"), Some(Answer::Truncated));
        let none = answer(7, |packet| {
            packet.answers.clear();
            *packet.rcode_mut() = RCODE::NameError;
        });
        assert_eq!(read(&none, 7, "web.example"), Some(Answer::Addresses(Vec::new())));
    }
}
