//! What is to be published, read by a thread of its own: reading may block, and requests go on meanwhile.

use std::{
    fs::File,
    io::{self, BufReader, IsTerminal, Read},
    path::PathBuf,
    thread,
};

use anyhow::Context;
use tokio::sync::mpsc;

use super::batches::Lines;
use crate::cli::output::note;

/// How much the reader reads at once, and how many bytes of lines it hands over at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// How many chunks wait for whoever publishes.
const CHUNKS: usize = 4;

/// Lines that stand one after the other, without their ends.
pub(super) type Chunk = Vec<Vec<u8>>;

/// What was read, as it comes.
pub(super) type Chunks = mpsc::Receiver<io::Result<Chunk>>;

type Reader = BufReader<Box<dyn Read + Send>>;

/// The records, and how many bytes of them there are, where that is known.
pub(in crate::cli) fn open(file: &PathBuf) -> anyhow::Result<(Reader, Option<u64>)> {
    if file.as_os_str() == "-" {
        if io::stdin().is_terminal() {
            note("reading from the terminal, a JSON object a line; Ctrl-D ends it");
        }
        return Ok((BufReader::with_capacity(CHUNK_BYTES, Box::new(io::stdin())), None));
    }
    let reading = || format!("reading {}", file.display());
    let open = File::open(file).with_context(reading)?;
    let metadata = open.metadata().with_context(reading)?;
    anyhow::ensure!(!metadata.is_dir(), "{} is a directory", file.display());
    let size = metadata.is_file().then_some(metadata.len());
    Ok((BufReader::with_capacity(CHUNK_BYTES, Box::new(open)), size))
}

/// Starts to read. What was read is handed over before reading can block, so that what comes slowly waits for nothing.
pub(super) fn chunks(reader: Reader) -> Chunks {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    // Nobody waits for its end: it may be reading from a terminal when everything else is over.
    thread::spawn(move || {
        // An error means that nobody publishes any more.
        let _ = hand_over(Lines::of(reader), &sender);
    });
    receiver
}

fn hand_over(
    mut lines: Lines<Reader>,
    sender: &mpsc::Sender<io::Result<Chunk>>,
) -> Result<(), mpsc::error::SendError<io::Result<Chunk>>> {
    let (mut chunk, mut bytes) = (Chunk::new(), 0);
    while let Some(line) = lines.next() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                sender.blocking_send(Ok(chunk))?;
                return sender.blocking_send(Err(error));
            }
        };
        bytes += line.len();
        chunk.push(line);
        if bytes >= CHUNK_BYTES || !lines.reader().buffer().contains(&b'\n') {
            bytes = 0;
            sender.blocking_send(Ok(std::mem::take(&mut chunk)))?;
        }
    }
    sender.blocking_send(Ok(chunk))
}
