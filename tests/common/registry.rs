//! Debian's docker-registry on a port of its own.

use super::{Output, finish, poll, require_program};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The user that registries with authentication know.
pub const USER: &str = "alice";
/// The password of that user.
pub const PASSWORD: &str = "open:sesame";

/// Who a registry lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryAuth {
    /// Everybody, without TLS.
    Open,
    /// With TLS, users of a file.
    Password,
    /// With TLS, whoever has a token from a server of the test's.
    Token,
}

/// A registry that ends with the test.
pub struct RegistryServer {
    child: Child,
    dir: PathBuf,
    /// Host and port.
    pub host: String,
    auth: RegistryAuth,
}

fn run(command: &mut Command) -> Output {
    let mut own = Command::new(command.get_program());
    own.args(command.get_args());
    finish(own, None).success()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Makes `ca.crt`, and `server.crt` with its key for the loopback address.
fn certificates(dir: &Path) {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let openssl = require_program("openssl");
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority"];
    run(Command::new(&openssl).args(new).args(["-keyout", &path("ca.key"), "-out", &path("ca.crt")]));
    let request = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=registry"];
    run(Command::new(&openssl).args(request).args([
        "-keyout",
        &path("server.key"),
        "-out",
        &path("server.csr"),
    ]));
    fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").expect("a file");
    fs::create_dir(dir.join("trust"))
        .and_then(|()| fs::copy(dir.join("ca.crt"), dir.join("trust/ca.crt")))
        .expect("a file");
    let sign = ["x509", "-req", "-days", "2", "-CAcreateserial", "-extfile", &path("ext")].map(str::to_owned);
    let files = [
        "-in",
        &path("server.csr"),
        "-CA",
        &path("ca.crt"),
        "-CAkey",
        &path("ca.key"),
        "-out",
        &path("server.crt"),
    ]
    .map(str::to_owned);
    run(Command::new(&openssl).args(sign).args(files));
}

impl RegistryServer {
    /// Starts a registry that keeps its files in `dir`.
    pub fn start(dir: &Path, auth: RegistryAuth) -> Self {
        fs::create_dir_all(dir).expect("the registry's folder");
        let host = format!("127.0.0.1:{}", free_port());
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": false}},
            "storage": {"filesystem": {"rootdirectory": dir.join("data")}, "delete": {"enabled": true}},
            "http": {"addr": host},
        });
        if auth != RegistryAuth::Open {
            certificates(dir);
            config["http"]["tls"] =
                json!({"certificate": dir.join("server.crt"), "key": dir.join("server.key")});
        }
        match auth {
            RegistryAuth::Open => {}
            RegistryAuth::Password => {
                let users = run(Command::new(require_program("htpasswd")).args(["-Bbn", USER, PASSWORD]));
                fs::write(dir.join("users"), users.stdout).expect("the file of users");
                config["auth"] = json!({"htpasswd": {"realm": "test", "path": dir.join("users")}});
            }
            RegistryAuth::Token => {
                let realm = token_server(dir);
                config["auth"] = json!({"token": {"realm": realm, "service": "test-registry",
                    "issuer": "test-issuer", "rootcertbundle": dir.join("ca.crt")}});
            }
        }
        let file = dir.join("config.yml");
        // JSON is YAML.
        fs::write(&file, config.to_string()).expect("the registry's configuration");
        let child = serve(Command::new(require_program("docker-registry")), dir);
        poll("the registry to listen", || TcpStream::connect(&host).ok());
        Self { child, dir: dir.to_owned(), host, auth }
    }

    /// Goes on, without TLS, in the network of another process only.
    pub fn move_to(&mut self, pid: i32) {
        self.end();
        let inside = |program: &str| {
            let mut command = Command::new("nsenter");
            command.args(["--net", "--target", &pid.to_string()]).arg(require_program(program));
            command
        };
        self.child = serve(inside("docker-registry"), &self.dir);
        poll("the registry to listen", || {
            let url = format!("http://{}/v2/", self.host);
            let output = inside("curl").args(["--silent", &url]).output().expect("curl runs");
            output.status.success().then_some(())
        });
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A name in this registry.
    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.host)
    }

    /// The certificate of its authority.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("trust/ca.crt")
    }

    /// Copies an image from or to the registry with skopeo.
    #[track_caller]
    pub fn skopeo(&self, from: &str, to: &str) -> Output {
        let mut command = Command::new(require_program("skopeo"));
        command.args(["--insecure-policy", "copy", "--quiet"]);
        for side in ["src", "dest"] {
            let remote = if side == "src" { from } else { to }.starts_with("docker://");
            if remote && self.auth == RegistryAuth::Open {
                command.arg(format!("--{side}-tls-verify=false"));
            } else if remote {
                command.arg(format!("--{side}-cert-dir={}", self.dir.join("trust").display()));
                command.arg(format!("--{side}-creds={USER}:{PASSWORD}"));
            }
        }
        command.args([from, to]);
        finish(command, None).success()
    }

    /// Lines of its log, one for each request.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("HTTP/1.1\" ")).map(str::to_owned).collect()
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs the registry that the configuration in a folder describes.
fn serve(mut program: Command, dir: &Path) -> Child {
    let log = fs::File::create(dir.join("log")).expect("the registry's log");
    program.arg("serve").arg(dir.join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
    program.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);
    program.spawn().expect("the registry starts")
}

/// A server of tokens for [`USER`], as docker's registry wants them: JSON web tokens that the test's authority vouches for.
/// Answers its address. It ends with the process of the test.
fn token_server(dir: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port for tokens");
    let address = format!("http://{}/token", listener.local_addr().expect("its address"));
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &dir);
        }
    });
    address
}

fn answer(mut stream: TcpStream, dir: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut request, mut line, mut authorization, mut length) =
        (String::new(), String::new(), String::new(), 0);
    reader.read_line(&mut request)?;
    while reader.read_line(&mut line)? > 2 {
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => value.trim().clone_into(&mut authorization),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
        line.clear();
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    let expected = format!("Basic {}", base64(format!("{USER}:{PASSWORD}").as_bytes(), false));
    let (status, body) = if authorization == expected {
        let scope =
            request.split("scope=").nth(1).and_then(|rest| rest.split([' ', '&']).next()).unwrap_or_default();
        let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        ("200 OK", json!({"token": token(dir, &scope)}).to_string())
    } else {
        (
            "401 Unauthorized",
            json!({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}).to_string(),
        )
    };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn token(dir: &Path, scope: &str) -> String {
    let parts: Vec<&str> = scope.split(':').collect();
    let access = match parts.as_slice() {
        [kind, name, actions] => {
            json!([{"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}])
        }
        _ => json!([]),
    };
    let pem = fs::read_to_string(dir.join("ca.crt")).expect("the authority");
    let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
    let claims = json!({"iss": "test-issuer", "sub": USER, "aud": "test-registry", "exp": now + 300,
        "nbf": now - 60, "iat": now, "jti": "x", "access": access});
    let signed = format!(
        "{}.{}",
        base64(header.to_string().as_bytes(), true),
        base64(claims.to_string().as_bytes(), true)
    );
    let mut signer = Command::new(require_program("openssl"))
        .args(["dgst", "-sha256", "-sign"])
        .arg(dir.join("ca.key"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl signs");
    signer.stdin.take().expect("its input").write_all(signed.as_bytes()).expect("its input");
    let signature = signer.wait_with_output().expect("a signature").stdout;
    format!("{signed}.{}", base64(&signature, true))
}

/// Base 64, or its variant for addresses without padding.
fn base64(data: &[u8], url: bool) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    if url { URL_SAFE_NO_PAD.encode(data) } else { STANDARD.encode(data) }
}
