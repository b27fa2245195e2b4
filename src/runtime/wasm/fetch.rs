//! Requests of a component's own: HTTP/1.1, with TLS for `https`, one connection for each.
//!
//! They go where the sockets of the component could go, and are refused where it may have none.

use super::names::{self, Failure};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Response, Uri};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// How long a server may take for each step where the component does not say.
const TIMEOUT: Duration = Duration::from_secs(600);

/// What a component may do over HTTP beside answering.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// It may use TCP.
    pub tcp: bool,
}

type Sent = Result<(Response<WasiBody>, Pending), Error>;
type Pending = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Pending,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        if !self.tcp {
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        Box::new(send(request, options.unwrap_or_default()))
    }
}

/// What a connection is made of: bytes, whether they are encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn send(mut request: Request<WasiBody>, options: RequestOptions) -> Sent {
    let authority = request.uri().authority().cloned().ok_or(Error::HttpRequestUriInvalid)?;
    let encrypted = request.uri().scheme() == Some(&Scheme::HTTPS);
    let connecting = connect(&authority, encrypted);
    let stream = timeout(options.connect_timeout.unwrap_or(TIMEOUT), connecting)
        .await
        .map_err(|_| Error::ConnectionTimeout)??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It moves the bytes of request and response; it ends with the response, or when that is dropped.
    let connection = wasmtime_wasi::runtime::spawn(connection);
    if !request.headers().contains_key(HOST)
        && let Ok(host) = authority.as_str().parse()
    {
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| Error::HttpRequestUriInvalid)?;
    let answer = timeout(options.first_byte_timeout.unwrap_or(TIMEOUT), sender.send_request(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    let done = async move { connection.await.map_err(Error::from) };
    Ok((answer.map(|body| body.map_err(Error::from).boxed_unsync()), Box::new(done)))
}

async fn connect(authority: &Authority, encrypted: bool) -> Result<Box<dyn Stream>, Error> {
    let host = authority.host();
    let port = authority.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let addresses = names::resolve(host).await.map_err(|failure| match failure {
        Failure::Invalid => Error::HttpRequestUriInvalid,
        Failure::Unknown => Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None },
        Failure::NoAnswer => Error::DnsTimeout,
    })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) if encrypted => return encrypt(host, stream).await,
            Ok(stream) => return Ok(Box::new(stream)),
            Err(e) => last = e,
        }
    }
    Err(if last.kind() == io::ErrorKind::ConnectionRefused {
        Error::ConnectionRefused
    } else {
        Error::Connect(last)
    })
}

async fn encrypt(host: &str, stream: TcpStream) -> Result<Box<dyn Stream>, Error> {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|_| Error::HttpRequestUriInvalid)?;
    let connector = TlsConnector::from(trust().ok_or(Error::TlsCertificateError)?);
    connector
        .connect(name, stream)
        .await
        .map(|stream| Box::new(stream) as Box<dyn Stream>)
        .map_err(Error::Tls)
}

/// Whom to trust: the authorities of the system that this process sees, which is the container's.
fn trust() -> Option<Arc<ClientConfig>> {
    static TRUST: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    let make = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Some(Arc::new(config))
    };
    TRUST.get_or_init(make).clone()
}
