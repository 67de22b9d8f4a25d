//! MessagePack: records as maps, each turned into the JSON that it is then taken as.
//!
//! What JSON lacks is written as text: the timestamp extension as RFC 3339, binary within `payload` and
//! `sync_metadata` as Base64, and 16 bytes of binary as the uuid in `sync_id` and `sequin_id`.

use std::{fmt, io};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, SecondsFormat};
use rmp::Marker;
use serde::Serialize;
use uuid::Uuid;

use crate::api::problem::FieldProblem;

/// How many bytes of JSON a byte of MessagePack becomes at most, such as a control character or `false` in an array.
pub(super) const GROWTH: usize = 6;

/// How deep a record may be nested: as deep as its JSON may.
const MAX_DEPTH: usize = 127;

/// The extension type of a timestamp.
const TIMESTAMP: i8 = -1;

/// A body that can't be read on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("it ends in the middle of a value")]
    Truncated,
    #[error("0xc1 begins no value")]
    NoValue,
    #[error("something comes after the array")]
    BehindTheArray,
    /// It is longer as JSON than a body may be.
    #[error("it is too long")]
    TooLong,
}

/// The records of a body, one after the other.
pub(super) struct Records<'a> {
    rest: &'a [u8],
    /// How many elements are still to come, if they are those of an array.
    of_array: Option<u32>,
    json: Json,
    wrong: Option<FieldProblem>,
}

/// JSON that does not outgrow its limit.
struct Json {
    text: Vec<u8>,
    room: usize,
}

impl io::Write for Json {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > self.room {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Json {
    fn put(&mut self, value: impl Serialize) -> Result<(), Broken> {
        serde_json::to_writer(self, &value).map_err(|_| Broken::TooLong)
    }

    fn punctuate(&mut self, text: &str) -> Result<(), Broken> {
        io::Write::write_all(self, text.as_bytes()).map_err(|_| Broken::TooLong)
    }
}

/// Where a value stands, which decides on what binary means there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Uuid,
    Text,
    Within,
}

impl<'a> Records<'a> {
    /// The elements of an array, or a sequence of maps; all of them have at most `limit` bytes as JSON.
    pub(super) fn of(body: &'a [u8], limit: usize) -> Result<Self, Broken> {
        let json = Json { text: Vec::new(), room: limit };
        let mut records = Self { rest: body, of_array: None, json, wrong: None };
        if let Some(marker) = body.first() {
            records.of_array = match Marker::from_u8(*marker) {
                Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                    let marker = records.marker()?;
                    Some(records.array_length(marker)?)
                }
                _ => None,
            };
        }
        Ok(records)
    }

    /// The next record as JSON, or what of it JSON can't say.
    pub(super) fn next(&mut self) -> Result<Option<Result<&[u8], FieldProblem>>, Broken> {
        match &mut self.of_array {
            Some(0) | None if self.rest.is_empty() => return Ok(None),
            Some(0) => return Err(Broken::BehindTheArray),
            Some(left) => *left -= 1,
            None => (),
        }
        self.json.room -= self.json.text.len();
        self.json.text.clear();
        self.record()?;
        Ok(Some(match self.wrong.take() {
            Some(wrong) => Err(wrong),
            None => Ok(&self.json.text),
        }))
    }

    fn record(&mut self) -> Result<(), Broken> {
        let marker = self.marker()?;
        let Some(length) = self.map_length(marker)? else {
            // Not a record; its JSON says so.
            return self.value(marker, Place::Within, "record", 1);
        };
        self.json.punctuate("{")?;
        for number in 0..length {
            self.json.punctuate(if number == 0 { "" } else { "," })?;
            let field = self.key("record")?;
            self.json.punctuate(":")?;
            let place = match field {
                "sync_id" | "sequin_id" => Place::Uuid,
                "payload" | "sync_metadata" => Place::Within,
                _ => Place::Text,
            };
            let marker = self.marker()?;
            self.value(marker, place, field, 2)?;
        }
        self.json.punctuate("}")
    }

    fn value(&mut self, marker: Marker, place: Place, field: &str, depth: usize) -> Result<(), Broken> {
        match marker {
            Marker::Null => self.json.put(()),
            Marker::True => self.json.put(true),
            Marker::False => self.json.put(false),
            Marker::FixPos(number) => self.json.put(number),
            Marker::FixNeg(number) => self.json.put(number),
            Marker::U8 => self.bytes().map(u8::from_be_bytes).and_then(|number| self.json.put(number)),
            Marker::U16 => self.bytes().map(u16::from_be_bytes).and_then(|number| self.json.put(number)),
            Marker::U32 => self.bytes().map(u32::from_be_bytes).and_then(|number| self.json.put(number)),
            Marker::U64 => self.bytes().map(u64::from_be_bytes).and_then(|number| self.json.put(number)),
            Marker::I8 => self.bytes().map(i8::from_be_bytes).and_then(|number| self.json.put(number)),
            Marker::I16 => self.bytes().map(i16::from_be_bytes).and_then(|number| self.json.put(number)),
            Marker::I32 => self.bytes().map(i32::from_be_bytes).and_then(|number| self.json.put(number)),
            Marker::I64 => self.bytes().map(i64::from_be_bytes).and_then(|number| self.json.put(number)),
            Marker::F32 => {
                let number = self.bytes().map(f32::from_be_bytes)?;
                self.float(number, number.is_finite(), field)
            }
            Marker::F64 => {
                let number = self.bytes().map(f64::from_be_bytes)?;
                self.float(number, number.is_finite(), field)
            }
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let text = self.text(marker, field)?;
                self.json.put(text)
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => self.binary(marker, place, field),
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => self.array(marker, field, depth),
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => self.map(marker, field, depth),
            Marker::Reserved => Err(Broken::NoValue),
            Marker::FixExt1 => self.extension(1, field),
            Marker::FixExt2 => self.extension(2, field),
            Marker::FixExt4 => self.extension(4, field),
            Marker::FixExt8 => self.extension(8, field),
            Marker::FixExt16 => self.extension(16, field),
            Marker::Ext8 | Marker::Ext16 | Marker::Ext32 => {
                let length = self.length(marker)?;
                self.extension(length, field)
            }
        }
    }

    fn float(&mut self, number: impl Serialize + fmt::Display, is_finite: bool, field: &str) -> Result<(), Broken> {
        if !is_finite {
            self.is_wrong(field, format!("holds {number}, which JSON does not have"));
        }
        self.json.put(number)
    }

    fn binary(&mut self, marker: Marker, place: Place, field: &str) -> Result<(), Broken> {
        let length = self.length(marker)?;
        let bytes = self.take(length)?;
        match (place, Uuid::from_slice(bytes)) {
            (Place::Uuid, Ok(uuid)) => self.json.put(uuid),
            // What is longer than there is room for is not encoded to find that out.
            (Place::Within, _) if bytes.len() > self.json.room => Err(Broken::TooLong),
            (Place::Within, _) => self.json.put(BASE64_STANDARD.encode(bytes)),
            (Place::Uuid, Err(_)) => {
                self.is_wrong(field, format!("takes a uuid, as text or as 16 bytes, not {length} bytes"));
                self.json.put(())
            }
            (Place::Text, _) => {
                self.is_wrong(field, "takes text, not binary");
                self.json.put(())
            }
        }
    }

    fn array(&mut self, marker: Marker, field: &str, depth: usize) -> Result<(), Broken> {
        let length = self.array_length(marker)?;
        if depth >= MAX_DEPTH {
            return self.too_deep(u64::from(length), field);
        }
        self.json.punctuate("[")?;
        for number in 0..length {
            self.json.punctuate(if number == 0 { "" } else { "," })?;
            let marker = self.marker()?;
            self.value(marker, Place::Within, field, depth + 1)?;
        }
        self.json.punctuate("]")
    }

    fn map(&mut self, marker: Marker, field: &str, depth: usize) -> Result<(), Broken> {
        let length = self.map_length(marker)?.unwrap_or_default();
        if depth >= MAX_DEPTH {
            return self.too_deep(u64::from(length) * 2, field);
        }
        self.json.punctuate("{")?;
        for number in 0..length {
            self.json.punctuate(if number == 0 { "" } else { "," })?;
            self.key(field)?;
            self.json.punctuate(":")?;
            let marker = self.marker()?;
            self.value(marker, Place::Within, field, depth + 1)?;
        }
        self.json.punctuate("}")
    }

    fn key(&mut self, field: &str) -> Result<&'a str, Broken> {
        let key = match self.marker()? {
            marker @ (Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32) => self.text(marker, field)?,
            marker => {
                self.is_wrong(field, "holds a map with a key that is not text");
                self.pass_over(marker)?;
                ""
            }
        };
        self.json.put(key)?;
        Ok(key)
    }

    fn text(&mut self, marker: Marker, field: &str) -> Result<&'a str, Broken> {
        let length = self.length(marker)?;
        let bytes = self.take(length)?;
        Ok(str::from_utf8(bytes).unwrap_or_else(|_| {
            self.is_wrong(field, "holds text that is not UTF-8");
            ""
        }))
    }

    fn extension(&mut self, length: usize, field: &str) -> Result<(), Broken> {
        let [kind] = self.bytes().map(|[byte]: [u8; 1]| [byte.cast_signed()])?;
        let bytes = self.take(length)?;
        let Some(time) = Some(bytes).filter(|_| kind == TIMESTAMP).and_then(timestamp) else {
            self.is_wrong(field, format!("holds an extension of type {kind} that is no time"));
            return self.json.put(());
        };
        self.json.put(time)
    }

    fn too_deep(&mut self, values: u64, field: &str) -> Result<(), Broken> {
        self.is_wrong(field, format!("is nested deeper than {MAX_DEPTH} levels"));
        self.pass_over_values(values)?;
        self.json.put(())
    }

    /// The first thing that is wrong is told.
    fn is_wrong(&mut self, field: &str, message: impl Into<String>) {
        self.wrong.get_or_insert_with(|| FieldProblem::new(field, message));
    }

    fn pass_over(&mut self, marker: Marker) -> Result<(), Broken> {
        let values = self.pass_over_one(marker)?;
        self.pass_over_values(values)
    }

    /// Without recursion: what is passed over may be nested as deep as it likes.
    fn pass_over_values(&mut self, mut values: u64) -> Result<(), Broken> {
        while values > 0 {
            let marker = self.marker()?;
            values = values - 1 + self.pass_over_one(marker)?;
        }
        Ok(())
    }

    /// Returns how many values lie within.
    fn pass_over_one(&mut self, marker: Marker) -> Result<u64, Broken> {
        let length = match marker {
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                return self.array_length(marker).map(u64::from);
            }
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                return Ok(self.map_length(marker)?.map_or(0, |length| u64::from(length) * 2));
            }
            Marker::Reserved => return Err(Broken::NoValue),
            Marker::Null | Marker::True | Marker::False | Marker::FixPos(_) | Marker::FixNeg(_) => 0,
            Marker::U8 | Marker::I8 => 1,
            Marker::U16 | Marker::I16 | Marker::FixExt1 => 2,
            Marker::FixExt2 => 3,
            Marker::U32 | Marker::I32 | Marker::F32 => 4,
            Marker::FixExt4 => 5,
            Marker::U64 | Marker::I64 | Marker::F64 => 8,
            Marker::FixExt8 => 9,
            Marker::FixExt16 => 17,
            Marker::Ext8 | Marker::Ext16 | Marker::Ext32 => self.length(marker)?.saturating_add(1),
            _ => self.length(marker)?,
        };
        self.take(length).map(|_| 0)
    }

    fn marker(&mut self) -> Result<Marker, Broken> {
        self.bytes().map(|[byte]| Marker::from_u8(byte))
    }

    fn array_length(&mut self, marker: Marker) -> Result<u32, Broken> {
        match marker {
            Marker::FixArray(length) => Ok(length.into()),
            Marker::Array16 => self.bytes().map(u16::from_be_bytes).map(u32::from),
            _ => self.bytes().map(u32::from_be_bytes),
        }
    }

    /// `None` if it is no map.
    fn map_length(&mut self, marker: Marker) -> Result<Option<u32>, Broken> {
        match marker {
            Marker::FixMap(length) => Ok(Some(length.into())),
            Marker::Map16 => self.bytes().map(u16::from_be_bytes).map(u32::from).map(Some),
            Marker::Map32 => self.bytes().map(u32::from_be_bytes).map(Some),
            _ => Ok(None),
        }
    }

    /// Of a text, a binary or an extension, in bytes.
    fn length(&mut self, marker: Marker) -> Result<usize, Broken> {
        match marker {
            Marker::FixStr(length) => Ok(length.into()),
            Marker::Str8 | Marker::Bin8 | Marker::Ext8 => self.bytes().map(u8::from_be_bytes).map(usize::from),
            Marker::Str16 | Marker::Bin16 | Marker::Ext16 => self.bytes().map(u16::from_be_bytes).map(usize::from),
            _ => self.bytes().map(u32::from_be_bytes).map(|length| usize::try_from(length).unwrap_or(usize::MAX)),
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Broken::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Broken::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// The three forms of the specification, as RFC 3339.
fn timestamp(bytes: &[u8]) -> Option<String> {
    let (seconds, nanoseconds) = match bytes.len() {
        4 => (i64::from(u32::from_be_bytes(bytes.try_into().ok()?)), 0),
        8 => {
            let both = u64::from_be_bytes(bytes.try_into().ok()?);
            (i64::try_from(both & 0x3_ffff_ffff).ok()?, u32::try_from(both >> 34).ok()?)
        }
        12 => {
            let (nanoseconds, seconds) = bytes.split_first_chunk::<4>()?;
            (i64::from_be_bytes(seconds.try_into().ok()?), u32::from_be_bytes(*nanoseconds))
        }
        _ => return None,
    };
    let time = DateTime::from_timestamp(seconds, nanoseconds)?;
    Some(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

#[cfg(test)]
mod tests;
