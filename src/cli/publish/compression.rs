//! Compressing requests, where the way is longer than within a machine.

use std::io::{self, Write};

use bytes::Bytes;
use clap::ValueEnum;
use flate2::write::GzEncoder;

/// Whether to compress, as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Compress {
    /// By Zstandard, unless the server is this machine.
    #[default]
    Auto,
    None,
    Gzip,
    Zstd,
}

/// How a request is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compress {
    pub(super) fn for_server(self, is_local: bool) -> Compression {
        match self {
            Self::Auto if is_local => Compression::None,
            Self::Auto | Self::Zstd => Compression::Zstd,
            Self::None => Compression::None,
            Self::Gzip => Compression::Gzip,
        }
    }
}

impl Compression {
    /// The body, and what its encoding is called.
    pub(super) async fn of(self, bytes: Vec<u8>) -> (Bytes, Option<&'static str>) {
        if self == Self::None {
            return (bytes.into(), None);
        }
        let compress = move || match self {
            Self::None => bytes,
            Self::Gzip => gzip(&bytes).expect("writing to memory can't fail"),
            Self::Zstd => zstd::encode_all(&bytes[..], zstd::DEFAULT_COMPRESSION_LEVEL).expect("nor can this"),
        };
        let compressed = tokio::task::spawn_blocking(compress).await.expect("compressing does not panic");
        (compressed.into(), Some(if self == Self::Gzip { "gzip" } else { "zstd" }))
    }
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_compressed_on_the_way_to_another_machine_unless_asked_otherwise() {
        let chosen = |compress: Compress| [true, false].map(|is_local| compress.for_server(is_local));
        assert_eq!(chosen(Compress::Auto), [Compression::None, Compression::Zstd]);
        assert_eq!(chosen(Compress::None), [Compression::None; 2]);
        assert_eq!(chosen(Compress::Gzip), [Compression::Gzip; 2]);
        assert_eq!(chosen(Compress::Zstd), [Compression::Zstd; 2]);
    }
}
