//! Taking in the body of a publication: decompressed, and never more of them at once than there is room for.
//!
//! A body takes room for what it becomes. What a compressed one becomes is measured first, without keeping it, so that a
//! bomb takes time and no memory. Room for what is compressed is taken before room to be parsed in, and never after it: so
//! nobody waits for ever.

use std::{
    io::{self, Read},
    sync::Arc,
};

use axum::{
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::{body::LimitedBytes, problem::Problem};

/// The largest publication, in bytes: as it is sent, and as it is when it is not compressed.
pub(super) const MAX_BODY: usize = 64 * 1024 * 1024;

/// How much all publications under way together may bring, in KiB: the largest, or many small ones.
const PUBLISHING_KIB: usize = MAX_BODY / 1024;

/// How much the compressed bodies may take that are not decompressed yet, in KiB; a larger one waits until it is alone.
const COMPRESSED_KIB: usize = 16 * 1024;

/// How many bodies are decompressed at the same time: each takes a window of up to 8 MiB besides.
const DECOMPRESSING: usize = 4;

/// The largest window that Zstandard may use in HTTP, as a power of two: 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;

/// What bounds the memory of all publications under way.
pub(in crate::api) struct Room {
    publishing: Arc<Semaphore>,
    compressed: Arc<Semaphore>,
    decompressing: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            publishing: Semaphore::new(PUBLISHING_KIB).into(),
            compressed: Semaphore::new(COMPRESSED_KIB).into(),
            decompressing: Semaphore::new(DECOMPRESSING).into(),
        }
    }
}

/// A body as it is without compression, and the room that it and what is made of it take.
pub(super) struct Intake {
    pub(super) body: Bytes,
    pub(super) room: OwnedSemaphorePermit,
}

impl Room {
    /// Reads the body; parsing it may take `growth` times its length.
    pub(super) async fn take_in(&self, request: Request, growth: usize) -> Result<Intake, Problem> {
        let encoding = Encoding::of(request.headers())?;
        // Before the first byte is read: a request that has to wait takes no memory.
        let length = announced(request.headers());
        let Some(encoding) = encoding else {
            let room = acquire(&self.publishing, length.saturating_mul(growth), PUBLISHING_KIB).await?;
            let LimitedBytes(body) = LimitedBytes::<MAX_BODY>::from_request(request, &()).await?;
            return Ok(Intake { body, room });
        };
        let compressed_room = acquire(&self.compressed, length, COMPRESSED_KIB).await?;
        let LimitedBytes(compressed) = LimitedBytes::<MAX_BODY>::from_request(request, &()).await?;
        let measured = compressed.clone();
        let length = self.decompress(move || encoding.length(&measured)).await?;
        let room = acquire(&self.publishing, length.saturating_mul(growth), PUBLISHING_KIB).await?;
        let body = self.decompress(move || encoding.decompress(&compressed, length)).await?;
        drop(compressed_room);
        Ok(Intake { body, room })
    }

    async fn decompress<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = Arc::clone(&self.decompressing).acquire_owned().await;
        let turn = turn.map_err(|closed| Problem::internal(&closed))?;
        let work = move || {
            let done = work();
            // Here, since the work goes on when nobody waits for it any more.
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(&error))?
    }
}

async fn acquire(room: &Arc<Semaphore>, bytes: usize, most_kib: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let kib = bytes.div_ceil(1024).clamp(1, most_kib);
    let kib = u32::try_from(kib).expect("a room's KiB are a u32");
    Arc::clone(room).acquire_many_owned(kib).await.map_err(|closed| Problem::internal(&closed))
}

/// How long the body says it is; one that does not say gets the room of the longest.
fn announced(headers: &HeaderMap) -> usize {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.unwrap_or(MAX_BODY)
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    /// `None` if it is not compressed.
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let values: Vec<&HeaderValue> = headers.get_all(header::CONTENT_ENCODING).iter().collect();
        let named = match values.as_slice() {
            [] => return Ok(None),
            [one] => one.to_str().unwrap_or_default().trim().to_ascii_lowercase(),
            _ => "several".into(),
        };
        match named.as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "zstd" => Ok(Some(Self::Zstd)),
            other => {
                let detail = format!("the body's encoding is {other:?}: send it as gzip, as zstd or as it is");
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn reader(self, compressed: &[u8]) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(compressed)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }

    /// How long the body is when it is decompressed.
    fn length(self, compressed: &[u8]) -> Result<usize, Problem> {
        let beyond = MAX_BODY as u64 + 1;
        let length = self
            .reader(compressed)
            .and_then(|reader| io::copy(&mut reader.take(beyond), &mut io::sink()))
            .map_err(|error| self.broken(&error))?;
        match usize::try_from(length) {
            Ok(length) if length <= MAX_BODY => Ok(length),
            _ => Err(too_large("the body, decompressed,")),
        }
    }

    /// Decompresses a body of this length.
    fn decompress(self, compressed: &[u8], length: usize) -> Result<Bytes, Problem> {
        let mut body = Vec::with_capacity(length);
        let reader = self.reader(compressed).map_err(|error| self.broken(&error))?;
        reader.take(length as u64).read_to_end(&mut body).map_err(|error| self.broken(&error))?;
        Ok(body.into())
    }

    fn broken(self, error: &io::Error) -> Problem {
        let detail = format!("the body can't be decompressed as {}: {error}", self.name());
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }
}

/// 413, for what is too large in another way than as it was sent.
pub(super) fn too_large(what: &str) -> Problem {
    let detail = format!("{what} has more bytes than the limit of {MAX_BODY} allows: send fewer records at once");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).expect("memory")
    }

    fn status(problem: &Problem) -> u64 {
        serde_json::to_value(problem).expect("JSON")["status"].as_u64().expect("a number")
    }

    #[test]
    fn what_was_compressed_comes_out_with_several_members_too() {
        let text = b"a line\n".repeat(10_000);
        for (encoding, once) in [(Encoding::Gzip, gzip(&text)), (Encoding::Zstd, zstd(&text))] {
            let twice = [&once[..], &once[..]].concat();
            let length = encoding.length(&twice).expect("a length");
            assert_eq!(length, text.len() * 2);
            assert_eq!(encoding.decompress(&twice, length).expect("a body"), text.repeat(2));
        }
    }

    #[test]
    fn the_limit_holds_for_what_a_body_becomes_to_the_byte() {
        let most = vec![b' '; MAX_BODY];
        let beyond = vec![b' '; MAX_BODY + 1];
        for (encoding, compress) in [(Encoding::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (Encoding::Zstd, zstd)] {
            assert_eq!(encoding.length(&compress(&most)).expect("a length"), MAX_BODY);
            assert_eq!(status(&encoding.length(&compress(&beyond)).expect_err("too large")), 413);
        }
    }

    #[test]
    fn a_body_that_is_damaged_or_wants_too_large_a_window_is_refused() {
        let text = b"a line\n".repeat(1000);
        for (encoding, whole) in [(Encoding::Gzip, gzip(&text)), (Encoding::Zstd, zstd(&text))] {
            let mut damaged = whole.clone();
            *damaged.last_mut().expect("a byte") ^= 0xff;
            let cut = &whole[..whole.len() - 3];
            let trailed = [&whole[..], b"something else"].concat();
            let gzip_damaged = encoding == Encoding::Gzip;
            for wrong in [cut, &trailed, b"plain"].into_iter().chain(gzip_damaged.then_some(&damaged[..])) {
                assert_eq!(status(&encoding.length(wrong).expect_err("broken")), 400, "{encoding:?}: {wrong:x?}");
            }
        }
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("an encoder");
        encoder.window_log(ZSTD_WINDOW_LOG + 1).expect("a window");
        encoder.write_all(&text).expect("memory");
        let wide = encoder.finish().expect("memory");
        assert_eq!(status(&Encoding::Zstd.length(&wide).expect_err("too wide")), 400);
    }

    #[test]
    fn the_encoding_is_named_in_any_case_and_one_only() {
        let of = |values: &[&'static str]| {
            let values = values.iter().map(|value| (header::CONTENT_ENCODING, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            headers.extend(values);
            Encoding::of(&headers).map_err(|problem| status(&problem))
        };
        assert_eq!([of(&[]), of(&["identity"])], [Ok(None), Ok(None)]);
        assert_eq!([of(&["GZIP"]), of(&["x-gzip"])], [Ok(Some(Encoding::Gzip)), Ok(Some(Encoding::Gzip))]);
        assert_eq!(of(&["zstd"]), Ok(Some(Encoding::Zstd)));
        assert_eq!([of(&["br"]), of(&["gzip, zstd"]), of(&["gzip", "gzip"])], [Err(415); 3]);
    }

    #[tokio::test]
    async fn whoever_waits_for_room_holds_none_that_another_waits_for() {
        let room = Room::default();
        let all = acquire(&room.publishing, MAX_BODY, PUBLISHING_KIB).await.expect("room");
        let request = || {
            let body = zstd(&vec![b' '; MAX_BODY / 8]);
            let request = Request::post("/").header("content-encoding", "zstd").header("content-length", body.len());
            request.body(body.into()).expect("a request")
        };
        let many = futures_util::future::join_all((0..20).map(|_| async {
            let intake = room.take_in(request(), 8).await.expect("a body");
            assert_eq!(intake.body.len(), MAX_BODY / 8);
        }));
        drop(all);
        tokio::time::timeout(std::time::Duration::from_secs(50), many).await.expect("nobody waits for ever");
    }
}
