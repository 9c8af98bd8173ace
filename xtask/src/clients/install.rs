//! Brings the clients from their registries, builds their programs, and keeps both under `target/clients` until one
//! of the files that they are made from changes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::process::Run;

/// Registries can be slow on a machine's first day.
const LIMIT: Duration = Duration::from_secs(600);

/// Where the clients' sources are and where they are installed.
pub struct Places {
    sources: PathBuf,
    installed: PathBuf,
}

impl Places {
    pub fn new(root: &Path, target: &Path) -> Places {
        Places { sources: root.join("broker/tests/clients"), installed: target.join("clients") }
    }

    /// A directory of the installed, by its language.
    pub fn installed(&self, language: &str) -> PathBuf {
        self.installed.join(language)
    }

    pub fn sources(&self, language: &str) -> PathBuf {
        self.sources.join(language)
    }

    pub fn java(&self, class: &str) -> Run {
        let java = self.installed("java");
        let path = format!("{}:{}", java.join("classes").display(), java.join("libs/*").display());
        Run::new("java").args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]).args([
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
            "-cp",
            &path,
            class,
        ])
    }

    pub fn python(&self, program: &str) -> Run {
        let python = self.installed("python").join("bin/python");
        Run::new(python).args(["-B"]).args([self.sources("python").join(program)])
    }

    pub fn node(&self, program: &str) -> Run {
        Run::new("node").args([self.installed("node").join(program)])
    }

    pub fn go(&self, client: &str) -> Run {
        Run::new(self.installed("go").join(client))
    }

    pub fn rust(&self) -> Run {
        Run::new(self.installed("rust").join("release/client"))
    }

    /// Installs what one language's programs need, unless that is done already. Returns whether it had to.
    pub fn install(&self, language: &str) -> Result<bool> {
        if language == "kcat" {
            return install_kcat();
        }
        let (sources, installed) = (self.sources(language), self.installed(language));
        let stamp = installed.join("stamp");
        let inputs = hash_of_files(&sources)?;
        if std::fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == inputs) {
            return Ok(false);
        }
        if installed.exists() {
            std::fs::remove_dir_all(&installed)?;
        }
        std::fs::create_dir_all(&installed)?;
        match language {
            "java" => install_java(&sources, &installed),
            "python" => install_python(&sources, &installed),
            "node" => install_node(&sources, &installed),
            "go" => install_go(&sources, &installed),
            "rust" => install_rust(&sources, &installed),
            other => anyhow::bail!("nothing is known of the language {other}"),
        }
        .with_context(|| format!("installing the clients of {language}"))?;
        std::fs::write(stamp, inputs)?;
        Ok(true)
    }
}

/// Of the names and contents of all files below, but for Python's programs, which run where they are, and for what a
/// build may have left there.
fn hash_of_files(dir: &Path) -> Result<String> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let left_over = ["node_modules", "__pycache__", "target"].iter().any(|name| path.ends_with(name));
            match path.is_dir() {
                true if left_over => {}
                true => dirs.push(path),
                false if path.extension().is_some_and(|extension| extension == "py") => {}
                false => files.push(path),
            }
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        std::fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn install_java(sources: &Path, installed: &Path) -> Result<()> {
    let libs = installed.join("libs");
    Run::new("mvn")
        .args(["-B", "-q", "-DincludeScope=runtime"])
        .args([format!("-Dchronik.output={}", installed.display())])
        .args([format!("-DoutputDirectory={}", libs.display())])
        .args(["compile", "dependency:copy-dependencies"])
        .dir(sources)
        .limit(LIMIT)
        .output()?;
    Ok(())
}

fn install_python(sources: &Path, installed: &Path) -> Result<()> {
    Run::new("python3").args(["-m", "venv"]).args([installed]).limit(LIMIT).output()?;
    Run::new(installed.join("bin/pip"))
        .args(["install", "-q", "--disable-pip-version-check", "-r"])
        .args([sources.join("requirements.txt")])
        .limit(LIMIT)
        .output()?;
    Ok(())
}

fn install_node(sources: &Path, installed: &Path) -> Result<()> {
    for entry in std::fs::read_dir(sources)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), installed.join(entry.file_name()))?;
        }
    }
    Run::new("npm").args(["ci", "--no-audit", "--no-fund"]).dir(installed).limit(LIMIT).output()?;
    Ok(())
}

/// One program for each client.
fn install_go(sources: &Path, installed: &Path) -> Result<()> {
    Run::new("go")
        .args(["build", "-o"])
        .args([installed])
        .args(["./..."])
        .dir(sources)
        .limit(LIMIT)
        .output()?;
    Ok(())
}

/// A workspace of its own: nothing of the broker's build knows of it.
fn install_rust(sources: &Path, installed: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Run::new(cargo)
        .args(["build", "--locked", "--release", "--target-dir"])
        .args([installed])
        .dir(sources)
        .limit(LIMIT)
        .output()?;
    Ok(())
}

fn install_kcat() -> Result<bool> {
    if Run::new("kcat").args(["-V"]).output().is_ok() {
        return Ok(false);
    }
    ensure!(rustix::process::geteuid().is_root(), "kcat is not installed: apt-get install kcat");
    for command in [&["update", "-qq"][..], &["install", "-y", "--no-install-recommends", "kcat"]] {
        Run::new("apt-get")
            .args(command)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .limit(LIMIT)
            .output()
            .context("installing kcat")?;
    }
    Ok(true)
}
