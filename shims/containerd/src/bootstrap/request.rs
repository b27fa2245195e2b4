//! What containerd asks `start` for, and how it wants to be answered: by options of the command line and variables, to which versions up to 2.2
//! add the runtime's options on standard input; or, from 2.3 on, by one message there.

use crate::error::{Context as _, Result};
use crate::fields::Fields;
use crate::flags::Flags;
use crate::options::Options;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedOutputStream, Message as _};
use std::io::Read;

/// Variable in which containerd tells the newest version of the task API that it speaks; 1.6 does not, and 2.3 needs not.
const NEWEST_VERSION: &str = "MAX_SHIM_VERSION";
/// The versions of the task API that the server speaks.
const VERSIONS: (u32, u32) = (2, 3);
/// The protocol that it speaks.
const PROTOCOL: &str = "ttrpc";
/// Largest request on standard input, in bytes.
const LIMIT: u64 = 4 * 1024 * 1024;
/// Level of the log from which on everything is told.
const DEBUG: i64 = -4;

/// The request.
#[derive(Debug)]
pub struct Request {
    /// The options of the command line, with what the message says where they are missing.
    pub flags: Flags,
    /// The socket for events, where the message names it.
    pub events: Option<String>,
    /// The runtime's options; an error if they cannot be understood.
    pub options: Result<Options>,
    language: Language,
}

/// What containerd expects to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    /// The address alone.
    Address,
    /// A document with the newest version that both speak.
    Document(u32),
    /// A message.
    Message,
}

impl Request {
    /// Reads the request.
    pub fn read(flags: &Flags, input: impl Read) -> Result<Self> {
        let mut data = Vec::new();
        input.take(LIMIT).read_to_end(&mut data).context(|| "cannot read the request from standard input")?;
        Ok(Self::parse(flags, &data, std::env::var(NEWEST_VERSION).ok().as_deref()))
    }

    fn parse(flags: &Flags, data: &[u8], newest: Option<&str>) -> Self {
        if let Some(request) =
            message(flags, data).and_then(|message| Self::from_message(flags, &message).ok())
        {
            return request;
        }
        let newest = newest.and_then(|text| text.parse::<u32>().ok());
        let language = newest
            .map_or(Language::Address, |newest| Language::Document(newest.clamp(VERSIONS.0, VERSIONS.1)));
        let options = Any::parse_from_bytes(data).map_err(Into::into);
        let options = options.and_then(|any| Options::from_any(Some(&any)));
        Self { flags: flags.clone(), events: None, options, language }
    }

    fn from_message(flags: &Flags, message: &Fields) -> Result<Self> {
        let mut flags = flags.clone();
        (flags.id, flags.namespace) = (message.text(1)?, message.text(2)?);
        flags.debug |= message.number(3).cast_signed() <= DEBUG;
        if flags.address.is_empty() {
            flags.address = message.text(6)?;
        }
        let events = Some(message.text(5)?).filter(|address| !address.is_empty());
        Ok(Self { flags, events, options: options(message), language: Language::Message })
    }

    /// The answer, with the address of the server.
    pub fn answer(&self, address: &str) -> Result<Vec<u8>> {
        match self.language {
            Language::Address => Ok(address.into()),
            Language::Document(version) => {
                let document =
                    serde_json::json!({"version": version, "address": address, "protocol": PROTOCOL});
                Ok(document.to_string().into())
            }
            Language::Message => {
                let mut answer = Vec::new();
                let mut output = CodedOutputStream::vec(&mut answer);
                output.write_uint32(1, VERSIONS.1)?;
                output.write_string(2, address)?;
                output.write_string(3, PROTOCOL)?;
                output.flush()?;
                drop(output);
                Ok(answer)
            }
        }
    }
}

/// The message, if it is one: of the container that the command line names too, where that names one. Options for a runtime have a type
/// in the place of the id.
fn message(flags: &Flags, data: &[u8]) -> Option<Fields> {
    let message = Fields::parse(data).ok()?;
    let is = |number, own: &str| {
        message.text(number).is_ok_and(|text| !text.is_empty() && (own.is_empty() || own == text))
    };
    (is(1, &flags.id) && is(2, &flags.namespace)).then_some(message)
}

/// The runtime's options are among the extensions. What else is there is not for this program.
fn options(message: &Fields) -> Result<Options> {
    for extension in message.messages(8)? {
        let value = extension.message(1)?;
        let any = Any { type_url: value.text(1)?, value: value.data(2).to_vec(), ..Any::default() };
        if Options::is_one(&any) {
            return Options::from_any(Some(&any));
        }
    }
    Ok(Options::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that has a length.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn flags(line: &str) -> Flags {
        crate::flags::parse(line.split(' ').map(Into::into)).unwrap()
    }

    fn any(kind: &str, document: &str) -> Vec<u8> {
        [field(1, kind.as_bytes()), field(2, &field(3, document.as_bytes()))].concat()
    }

    const KNOWN: &str = "runtimeoptions.v1.Options";

    #[test]
    fn the_answer_is_of_the_newest_version_that_both_speak() {
        let answer = |newest| {
            let request = Request::parse(&flags("shim -id i -namespace n start"), &[], newest);
            String::from_utf8(request.answer("unix:///s").unwrap()).unwrap()
        };
        let version = |newest| {
            let answer: serde_json::Value = serde_json::from_str(&answer(Some(newest))).unwrap();
            assert_eq!((&answer["address"], &answer["protocol"]), (&"unix:///s".into(), &"ttrpc".into()));
            answer["version"].as_u64().unwrap()
        };
        assert_eq!((version("2"), version("3"), version("9")), (2, 3, 3));
        assert_eq!((answer(None).as_str(), answer(Some("x")).as_str()), ("unix:///s", "unix:///s"));
    }

    #[test]
    fn options_alone_are_no_message() {
        let flags = flags("shim -id i -namespace n start");
        let request = Request::parse(&flags, &any(KNOWN, "Backend = 'krun'"), Some("2"));
        assert_eq!(
            (request.options.unwrap().backend.as_str(), request.language),
            ("krun", Language::Document(2))
        );
        assert!(Request::parse(&flags, &any(KNOWN, "Nonsense = 1"), None).options.is_err());
        assert!(Request::parse(&flags, &any("other.Options", ""), None).options.is_err());
    }

    #[test]
    fn a_message_says_everything_and_is_answered_with_one() {
        let extension = |any: Vec<u8>| field(8, &field(1, &any));
        let message = [
            field(1, b"pod"),
            field(2, b"k8s.io"),
            // The level -4, in ten bytes.
            vec![3 << 3, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            field(5, b"/t"),
            field(6, b"/g"),
            extension(any("x.Other", "")),
            extension(any(KNOWN, "Backend = 'wasm'")),
        ]
        .concat();
        for line in ["shim start", "shim -id pod -namespace k8s.io -address /g start"] {
            let request = Request::parse(&flags(line), &message, Some("3"));
            assert_eq!((request.flags.id.as_str(), request.flags.namespace.as_str()), ("pod", "k8s.io"));
            assert_eq!((request.flags.address.as_str(), request.flags.debug), ("/g", true));
            assert_eq!(request.events.as_deref(), Some("/t"));
            let expected = [vec![8, 3], field(2, b"unix:///s"), field(3, b"ttrpc")].concat();
            assert_eq!(request.answer("unix:///s").unwrap(), expected);
            assert_eq!(request.options.unwrap().backend, "wasm");
        }
        // That of another container is none.
        let request = Request::parse(&flags("shim -id other -namespace k8s.io start"), &message, None);
        assert_eq!((request.flags.id.as_str(), request.language), ("other", Language::Address));
    }
}
