//! Keys in files, in BIND's form: `Kcompany.example.+013+12345.key` has the DNSKEY record, and `.private` beside it the secret half.

use super::super::name::Name;
use super::{Algorithm, Key, Signer};
use domain::utils::base64;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the names of a zone's key files begin with: BIND's way of writing a name in lower case, odd bytes as `%2F`.
fn stem(origin: &Name) -> String {
    let mut stem = "K".to_owned();
    for byte in origin.to_string().to_ascii_lowercase().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => stem.push(byte as char),
            _ => stem.push_str(&format!("%{byte:02X}")),
        }
    }
    stem + "+"
}

/// Makes a key and writes both files, which must not be there yet; the directory is made if need be. Gives the name of the files
/// without their ends, and the key. The error is a sentence.
pub fn generate(directory: &Path, origin: &Name, algorithm: Algorithm) -> Result<(PathBuf, Key), String> {
    let told = |path: &Path, why: std::io::Error| format!("{} cannot be written: {why}", path.display());
    let none = || "no key can be made: the system gave no random numbers".to_owned();
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|why| told(directory, why))?;
    let (key, secret) = Key::generate(algorithm).ok_or_else(none)?;
    let base = directory.join(format!("{}{:03}+{:05}", stem(origin), algorithm as u8, key.tag()));
    let comment = format!("; This is a key-signing key, keyid {}, for {origin}\n", key.tag());
    let public = format!("{comment}{}\n", dnskey(origin, &key));
    let private = format!(
        "Private-key-format: v1.3\nAlgorithm: {} ({})\nPrivateKey: {}\n",
        algorithm as u8,
        algorithm.name(),
        base64::encode_string(&secret)
    );
    for (end, mode, text) in [("private", 0o600, private), ("key", 0o644, public)] {
        let path = with_end(&base, end);
        let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|why| told(&path, why))?;
    }
    Ok((base, key))
}

/// The DNSKEY record as in a zone file.
pub fn dnskey(origin: &Name, key: &Key) -> String {
    let public = base64::encode_string(key.public());
    format!("{origin} IN DNSKEY {} 3 {} {public}", key.flags(), key.algorithm() as u8)
}

/// The DS record as in a zone file.
pub fn ds(origin: &Name, key: &Key) -> String {
    let data = key.ds(origin);
    let digest: String = data[4..].iter().map(|byte| format!("{byte:02X}")).collect();
    format!("{origin} IN DS {} {} {} {digest}", key.tag(), data[2], data[3])
}

/// All keys of a zone in a directory, in the order of their files' names. The error is a sentence.
pub fn load(directory: &Path, origin: &Name) -> Result<Signer, String> {
    let none = || {
        let name = origin.to_string();
        let dir = directory.display();
        format!("there is no key of {name} in {dir}: make one with `farside dns keygen --dir {dir} {name}`")
    };
    let stem = stem(origin);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Err(none()),
        Err(why) => return Err(format!("{} cannot be read: {why}", directory.display())),
    };
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.to_ascii_lowercase().starts_with(&stem.to_ascii_lowercase()) && name.ends_with(".private")
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(ours).collect();
    paths.sort();
    let keys: Vec<Key> = paths.iter().map(|path| read(path, origin)).collect::<Result<_, _>>()?;
    Signer::new(keys).ok_or_else(none)
}

fn with_end(base: &Path, end: &str) -> PathBuf {
    let mut path = base.as_os_str().to_owned();
    path.push(format!(".{end}"));
    path.into()
}

fn read(private: &Path, origin: &Name) -> Result<Key, String> {
    let public = private.with_extension("key");
    let text = |path: &Path| fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()));
    let mode = fs::metadata(private).map_err(|why| format!("{}: {why}", private.display()))?.mode();
    if mode & 0o007 != 0 {
        let path = private.display();
        return Err(format!("{path} is open to everybody on this machine: `chmod 600 {path}`, or make a new key"));
    }
    let (algorithm, secret) = secret(&text(private)?).map_err(|why| format!("{}: {why}", private.display()))?;
    let (flags, number, half) =
        record(&text(&public)?, origin).map_err(|why| format!("{}: {why}", public.display()))?;
    let key = (number == algorithm as u8).then(|| Key::new(algorithm, flags, &secret, &half)).flatten();
    key.ok_or_else(|| format!("{} and {} are not the halves of one key", private.display(), public.display()))
}

/// Algorithm and secret half of a `.private` file.
fn secret(text: &str) -> Result<(Algorithm, Vec<u8>), String> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if !field("Private-key-format").is_some_and(|version| version.starts_with("v1.")) {
        return Err("this is no private key in BIND's format".into());
    }
    let word = field("Algorithm").and_then(|text| text.split(' ').next()).unwrap_or_default();
    let algorithm = word.parse().ok().and_then(Algorithm::from_int).ok_or_else(|| {
        format!("algorithm {word} cannot be used: only 13 (ECDSA P-256 with SHA-256) and 15 (Ed25519)")
    })?;
    let encoded = field("PrivateKey").ok_or("there is no line `PrivateKey:`")?;
    let secret: Vec<u8> = base64::decode(encoded).map_err(|_| "`PrivateKey:` is not in base64")?;
    Ok((algorithm, secret))
}

/// Flags, algorithm and public half of a `.key` file.
fn record(text: &str, origin: &Name) -> Result<(u16, u8, Vec<u8>), String> {
    let lines = text.lines().map(|line| line.split(';').next().unwrap_or_default());
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).filter(|word| !matches!(*word, "(" | ")")).collect();
    let at = words.iter().position(|word| word.eq_ignore_ascii_case("DNSKEY")).ok_or("there is no DNSKEY record")?;
    if Name::parse(words[0]).ok().as_ref() != Some(origin) {
        return Err(format!("this is a key of {}, not of {origin}", words[0]));
    }
    let [flags, protocol, algorithm, half @ ..] = &words[at + 1..] else {
        return Err("the DNSKEY record is cut off".into());
    };
    let flags: u16 = flags.parse().map_err(|_| format!("{flags} are no flags of a DNSKEY"))?;
    if !Key::may_sign(flags) || *protocol != "3" {
        return Err(format!("a key with flags {flags} and protocol {protocol} signs no zone: flags are 257 or 256"));
    }
    let algorithm = algorithm.parse().map_err(|_| format!("{algorithm} is no number of an algorithm"))?;
    let half = base64::decode(&half.concat()).map_err(|_| "the DNSKEY's key is not in base64")?;
    Ok((flags, algorithm, half))
}

#[cfg(test)]
mod tests;
