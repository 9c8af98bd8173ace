//! The OCI image layout: an index that names a manifest, which names a configuration and one layer, each by its digest.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::rootfs::{USER, header};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What another blob calls a blob.
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn describe(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }
}

/// Writes an image of one layer, which is not compressed, as a tar file.
pub fn write(file: &Path, reference: &str, entry: Option<&str>, layer: &Path) -> Result<()> {
    let layer_blob = digest_of_file(layer)?;
    let mut config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "User": format!("{USER}:{USER}"), "Env": ["PATH=/usr/bin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [layer_blob.digest] },
    });
    if let Some(entry) = entry {
        config["config"]["Entrypoint"] = json!([entry]);
    }
    let config = config.to_string();
    let config_blob = blob(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config_blob.describe(CONFIG),
        "layers": [layer_blob.describe(LAYER)],
    })
    .to_string();
    let manifest_blob = blob(&manifest);
    let mut named = manifest_blob.describe(MANIFEST);
    named["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    // containerd takes the first of these for the image's name, other tools the second for its tag.
    named["annotations"] = json!({
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rsplit(':').next().unwrap_or(reference),
    });
    let index = json!({ "schemaVersion": 2, "manifests": [named] }).to_string();

    let mut tar = tar::Builder::new(BufWriter::new(File::create(file).with_context(|| format!("{file:?}"))?));
    append(&mut tar, "oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#.as_bytes())?;
    append(&mut tar, "index.json", index.as_bytes())?;
    for directory in ["blobs/", "blobs/sha256/"] {
        let mut header = header(0o755);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, directory, std::io::empty())?;
    }
    append(&mut tar, &path_of(&manifest_blob), manifest.as_bytes())?;
    append(&mut tar, &path_of(&config_blob), config.as_bytes())?;
    let mut header = header(0o644);
    header.set_size(layer_blob.size);
    tar.append_data(&mut header, path_of(&layer_blob), File::open(layer)?)?;
    tar.into_inner()?.flush()?;
    Ok(())
}

fn append(tar: &mut tar::Builder<BufWriter<File>>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(0o644);
    header.set_size(bytes.len() as u64);
    Ok(tar.append_data(&mut header, path, bytes)?)
}

fn path_of(blob: &Blob) -> String {
    format!("blobs/{}", blob.digest.replace(':', "/"))
}

fn blob(text: &str) -> Blob {
    Blob { digest: digest(text.as_bytes()), size: text.len() as u64 }
}

/// The digest by which the OCI image layout names some bytes.
pub fn digest(bytes: &[u8]) -> String {
    named(&Sha256::digest(bytes))
}

fn named(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn digest_of_file(path: &Path) -> Result<Blob> {
    let mut file = File::open(path)?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        size += bytes.len() as u64;
    }
    Ok(Blob { digest: named(&hash.finalize()), size })
}

/// This machine's architecture by the name that images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_sha256() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), empty);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; (1 << 20) + 1]).unwrap();
        let blob = digest_of_file(file.path()).unwrap();
        assert_eq!((blob.size, blob.digest), ((1 << 20) + 1, digest(&vec![7; (1 << 20) + 1])));
    }
}
