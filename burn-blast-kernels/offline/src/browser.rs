//! A headless Chromium that opens a page and tells what the page found out.
//!
//! It is driven over its DevTools pipe: lines of JSON that end in a zero byte, on file descriptors 3 and 4 of the
//! browser.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::OfflineError;

/// Names under which systems install it, tried in this order.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
/// What makes it start without a screen, ask nobody, and compute on its software adapter.
const FLAGS: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-webgpu",
    "--remote-debugging-pipe",
];
/// The file descriptors that it reads commands from and writes answers to.
const COMMANDS: i32 = 3;
const ANSWERS: i32 = 4;

/// A browser that runs.
pub struct Browser {
    child: Child,
    commands: PipeWriter,
    answers: BufReader<PipeReader>,
    /// Number of the last command.
    last: u64,
    _profile: tempfile::TempDir,
}

/// A page in it.
pub struct Page<'a> {
    browser: &'a mut Browser,
    session: String,
}

impl Browser {
    /// The program: what `BURN_BLAST_BROWSER` names, or the first of the usual names in `PATH`.
    pub fn find() -> Option<PathBuf> {
        if let Some(path) = std::env::var_os("BURN_BLAST_BROWSER") {
            return Some(path.into());
        }
        let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
        let paths = PROGRAMS.iter().flat_map(|name| folders.iter().map(move |dir| dir.join(name)));
        paths.into_iter().find(|path| path.is_file())
    }

    /// Starts the program with a window of this size and a profile of its own.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &Path, [width, height]: [u32; 2]) -> Result<Self, OfflineError> {
        let profile = tempfile::tempdir()?;
        let (to_browser, commands) = std::io::pipe()?;
        let (answers, from_browser) = std::io::pipe()?;
        let mut start = Command::new(program);
        start
            .args(FLAGS)
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let ends = [to_browser.as_raw_fd(), from_browser.as_raw_fd()];
        // SAFETY: only calls that are safe between fork and exec.
        unsafe {
            start.pre_exec(move || {
                // By way of high numbers: the ends may have the numbers that are wanted.
                let [read, write] = ends.map(|end| libc::fcntl(end, libc::F_DUPFD, 10));
                match [libc::dup2(read, COMMANDS), libc::dup2(write, ANSWERS)] {
                    [COMMANDS, ANSWERS] => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = start.spawn()?;
        let answers = BufReader::new(answers);
        Ok(Self { child, commands, answers, last: 0, _profile: profile })
    }

    /// Opens an address.
    ///
    /// # Errors
    /// If the browser refuses or ends.
    pub fn open(&mut self, address: &str) -> Result<Page<'_>, OfflineError> {
        let made = self.call("Target.createTarget", json!({ "url": address }), None)?;
        let of = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", of, None)?;
        let session = attached["sessionId"].as_str().unwrap_or_default().to_string();
        Ok(Page { browser: self, session })
    }

    fn call(
        &mut self,
        method: &str,
        params: Value,
        session: Option<&str>,
    ) -> Result<Value, OfflineError> {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes())?;
        loop {
            let mut line = Vec::new();
            if self.answers.read_until(0, &mut line)? == 0 {
                return Err(OfflineError::Browser { reason: "it ended".into() });
            }
            line.pop();
            let answer: Value = serde_json::from_slice(&line)
                .map_err(|error| OfflineError::Browser { reason: error.to_string() })?;
            // Events have no number.
            if answer["id"] != self.last {
                continue;
            }
            if let Some(error) = answer.get("error") {
                return Err(OfflineError::Browser { reason: format!("{method}: {error}") });
            }
            return Ok(answer["result"].clone());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Page<'_> {
    /// The value of an expression, which must be a string.
    ///
    /// # Errors
    /// If the browser ends, or the expression throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<String, OfflineError> {
        let params = json!({ "expression": expression, "returnByValue": true });
        let answer = self.browser.call("Runtime.evaluate", params, Some(&self.session))?;
        match answer["result"]["value"].as_str() {
            Some(value) => Ok(value.to_string()),
            None => Err(OfflineError::Browser { reason: format!("`{expression}` gave {answer}") }),
        }
    }

    /// Gives the page the size of another screen, in pixels, and the colours for dark or light surroundings.
    ///
    /// # Errors
    /// If the browser ends.
    pub fn show(&mut self, [width, height]: [u32; 2], dark: bool) -> Result<(), OfflineError> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.browser.call("Emulation.setDeviceMetricsOverride", size, Some(&self.session))?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.browser.call("Emulation.setEmulatedMedia", media, Some(&self.session))?;
        Ok(())
    }

    /// A picture of the whole page, in base64 of a PNG.
    ///
    /// # Errors
    /// If the browser ends.
    pub fn picture(&mut self) -> Result<String, OfflineError> {
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.browser.call("Page.captureScreenshot", params, Some(&self.session))?;
        Ok(answer["data"].as_str().unwrap_or_default().to_string())
    }

    /// Waits until the page has set `window.result`, and returns it.
    ///
    /// # Errors
    /// If the browser ends, or the page takes longer than `limit`.
    pub fn result(&mut self, limit: Duration) -> Result<Value, OfflineError> {
        let start = Instant::now();
        while start.elapsed() < limit {
            let text = self.evaluate("JSON.stringify(window.result ?? null)")?;
            let value: Value = serde_json::from_str(&text)
                .map_err(|error| OfflineError::Browser { reason: error.to_string() })?;
            if !value.is_null() {
                return Ok(value);
            }
            sleep(Duration::from_millis(100));
        }
        Err(OfflineError::Browser { reason: format!("the page had no result in {limit:?}") })
    }
}
