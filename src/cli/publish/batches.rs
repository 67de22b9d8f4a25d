//! Lines of a file, put together into requests.

use std::io::{self, BufRead, Read};

use bytes::Bytes;

/// The size of a request that is worth its way.
const BATCH_BYTES: usize = 1024 * 1024;

/// The most lines of a request: what the stream takes in one transaction without others noticing.
const BATCH_LINES: u64 = 2000;

/// The longest line, in bytes: more than any record may have.
const LINE_BYTES: u64 = 32 * 1024 * 1024;

/// Whole lines, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Batch {
    /// The number of the first line in the file, from 1.
    pub(in crate::cli) first_line: u64,
    pub(in crate::cli) lines: u64,
    /// The lines, each with its end.
    pub(in crate::cli) bytes: Bytes,
}

/// Makes batches of lines that come without their ends.
pub(in crate::cli) struct Batches<I> {
    lines: I,
    next_line: u64,
}

impl<I: Iterator<Item = io::Result<Vec<u8>>>> Batches<I> {
    pub(in crate::cli) fn of(lines: I) -> Self {
        Self { lines, next_line: 1 }
    }
}

impl<I: Iterator<Item = io::Result<Vec<u8>>>> Iterator for Batches<I> {
    type Item = io::Result<Batch>;

    /// The size is exceeded by the last line at most.
    fn next(&mut self) -> Option<io::Result<Batch>> {
        let (mut bytes, mut lines) = (Vec::new(), 0);
        while bytes.len() < BATCH_BYTES && lines < BATCH_LINES {
            match self.lines.next() {
                Some(Ok(line)) => {
                    bytes.extend_from_slice(&line);
                    bytes.push(b'\n');
                    lines += 1;
                }
                Some(Err(error)) => return Some(Err(error)),
                None if lines == 0 => return None,
                None => break,
            }
        }
        let first_line = self.next_line;
        self.next_line += lines;
        Some(Ok(Batch { first_line, lines, bytes: bytes.into() }))
    }
}

/// The lines of a reader, without their ends, none of them endless.
pub(in crate::cli) struct Lines<R> {
    reader: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(in crate::cli) fn of(reader: R) -> Self {
        Self { reader, number: 0 }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        self.number += 1;
        let mut line = Vec::new();
        match self.reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Err(error) => return Some(Err(error)),
            Ok(0) => return None,
            Ok(_) => (),
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() as u64 == LINE_BYTES {
            let what = format!("line {} is longer than {LINE_BYTES} bytes", self.number);
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        Some(Ok(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(text: &str) -> Vec<Batch> {
        Batches::of(Lines::of(text.as_bytes())).map(|batch| batch.expect("a batch")).collect()
    }

    #[test]
    fn lines_keep_their_order_and_their_numbers() {
        let text = (1..=4500).map(|number| number.to_string()).collect::<Vec<_>>().join("\n") + "\n";
        let batches = batches(&text);
        let numbers: Vec<_> = batches.iter().map(|batch| (batch.first_line, batch.lines)).collect();
        assert_eq!(numbers, [(1, 2000), (2001, 2000), (4001, 500)]);
        let together: Vec<u8> = batches.iter().flat_map(|batch| batch.bytes.to_vec()).collect();
        assert_eq!(together, text.as_bytes());
    }

    #[test]
    fn a_request_ends_with_the_line_that_fills_it() {
        let long = "x".repeat(BATCH_BYTES * 3 / 4);
        let numbers: Vec<_> = batches(&format!("{long}\n{long}\n{long}\n")).iter().map(|b| b.lines).collect();
        assert_eq!(numbers, [2, 1]);
    }

    #[test]
    fn the_last_line_needs_no_end_and_an_empty_file_makes_no_request() {
        assert_eq!(batches("a\nb")[0], Batch { first_line: 1, lines: 2, bytes: "a\nb\n".into() });
        assert_eq!(batches("a\n\n")[0].lines, 2);
        assert!(batches("").is_empty());
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let mut lines = Lines::of(io::BufReader::new(io::repeat(b'x')));
        let error = lines.next().expect("a line").expect_err("too long");
        assert!(error.to_string().contains("line 1 is longer"), "{error}");
    }
}
