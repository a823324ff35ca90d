//! A site's certificate and key: made once, kept in two files.
//!
//! There is no authority: each site signs its own, and every other site has a copy of it, which it compares byte by byte
//! ([`super::tls`]). For a handful of sites that is the least to do and the least to get wrong: nothing to keep under lock but each
//! site's own key, and a site is shut out by taking its file away.

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What every certificate is for. Sites may have names that no host can have, and which of them a certificate is comes from the file.
pub const SUBJECT: &str = "farside";

/// Clocks may differ: it holds from so much before it was made.
const BEFORE: Duration = Duration::from_secs(86400);

/// The two files of a site: certificate, key.
pub fn paths(directory: &Path, site: &str) -> (PathBuf, PathBuf) {
    (directory.join(format!("{site}.crt")), directory.join(format!("{site}.key")))
}

/// A certificate for `site` and its key, both in PEM: P-256, signed by itself, good for so long from now. The error is a sentence.
pub fn certificate(site: &str, good_for: Duration) -> Result<(String, String), String> {
    let told = |why: rcgen::Error| format!("no certificate can be made: {why}");
    let key = KeyPair::generate().map_err(told)?;
    let mut params = CertificateParams::new(vec![SUBJECT.to_string()]).map_err(told)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, site);
    let now = SystemTime::now();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + good_for).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).map_err(told)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Writes both files, which must not be there yet; the directory is made if need be. The error is a sentence.
pub fn generate(directory: &Path, site: &str, good_for: Duration) -> Result<(PathBuf, PathBuf), String> {
    let told = |path: &Path, why: std::io::Error| match why.kind() {
        std::io::ErrorKind::AlreadyExists => {
            format!("{} is there already and stays: move it away to make another", path.display())
        }
        _ => format!("{} cannot be written: {why}", path.display()),
    };
    let (certificate, key) = certificate(site, good_for)?;
    let paths = paths(directory, site);
    // Before the first is written: half a pair helps nobody.
    if let Some(there) = [&paths.0, &paths.1].into_iter().find(|path| path.exists()) {
        return Err(told(there, std::io::ErrorKind::AlreadyExists.into()));
    }
    DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|why| told(directory, why))?;
    for (path, mode, text) in [(&paths.1, 0o600, key), (&paths.0, 0o644, certificate)] {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|why| told(path, why))?;
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_key_is_for_its_owner_alone_and_nothing_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let within = directory.path().join("keys");
        let (certificate, key) = generate(&within, "north", Duration::from_secs(86400)).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!([mode(&certificate), mode(&key)], [0o644, 0o600]);
        let before = std::fs::read(&key).unwrap();
        let sentence = generate(&within, "north", Duration::from_secs(86400)).unwrap_err();
        assert!(sentence.contains("is there already"), "{sentence}");
        assert_eq!(std::fs::read(&key).unwrap(), before);
        std::fs::remove_file(&key).unwrap();
        assert!(generate(&within, "north", Duration::from_secs(86400)).is_err());
        assert!(!key.exists(), "half a pair was written");
    }
}
