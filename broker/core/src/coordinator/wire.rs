//! Kafka's encoding of fields, in its old form and in the flexible one (KIP-482).

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::RecordError;

type Result<T> = std::result::Result<T, RecordError>;

/// Whether a record can hold this string. What cannot be written is refused before it changes anything.
pub(crate) fn writable(text: &str) -> bool {
    i16::try_from(text.len()).is_ok()
}

/// Writes the old form; of the flexible one what is asked for by name.
pub(crate) struct Writer(BytesMut);

impl Writer {
    pub fn new(version: i16) -> Writer {
        let mut writer = Writer::inner();
        writer.i16(version);
        writer
    }

    /// Of a part that has no version of its own: a tagged field.
    pub fn inner() -> Writer {
        Writer(BytesMut::new())
    }

    pub fn i8(&mut self, value: i8) {
        self.0.put_i8(value);
    }

    pub fn i16(&mut self, value: i16) {
        self.0.put_i16(value);
    }

    pub fn i32(&mut self, value: i32) {
        self.0.put_i32(value);
    }

    pub fn i64(&mut self, value: i64) {
        self.0.put_i64(value);
    }

    /// Must be [`writable`].
    pub fn string(&mut self, text: &str) {
        debug_assert!(writable(text));
        self.0.put_i16(text.len() as i16);
        self.0.put_slice(text.as_bytes());
    }

    pub fn string_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.string(text),
            None => self.0.put_i16(-1),
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.put_i32(bytes.len() as i32);
        self.0.put_slice(bytes);
    }

    /// Must be [`writable`].
    pub fn compact_string(&mut self, text: &str) {
        debug_assert!(writable(text));
        self.compact_array(text.len());
        self.0.put_slice(text.as_bytes());
    }

    /// Must be [`writable`].
    pub fn compact_string_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.compact_string(text),
            None => self.compact_null(),
        }
    }

    pub fn compact_bytes(&mut self, bytes: &[u8]) {
        self.compact_array(bytes.len());
        self.0.put_slice(bytes);
    }

    pub fn uuid(&mut self, uuid: Uuid) {
        self.0.put_slice(uuid.as_bytes());
    }

    /// How many elements follow.
    pub fn compact_array(&mut self, length: usize) {
        self.varint(length as u32 + 1);
    }

    /// The tagged fields that end a struct, by tag.
    pub fn tagged(&mut self, fields: &[(u32, &[u8])]) {
        self.varint(fields.len() as u32);
        for (tag, value) in fields {
            self.varint(*tag);
            self.varint(value.len() as u32);
            self.0.put_slice(value);
        }
    }

    /// A flexible array or string that is null.
    pub fn compact_null(&mut self) {
        self.varint(0);
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.0.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.put_u8(value as u8);
    }

    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Reads either form. Believes no length before the bytes are there.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, flexible: false }
    }

    /// The version that every key and value begins with; `flexible_from` is the first flexible one.
    pub fn version(
        &mut self,
        what: &'static str,
        known: std::ops::RangeInclusive<i16>,
        flexible_from: i16,
    ) -> Result<i16> {
        let version = self.i16()?;
        if !known.contains(&version) {
            return Err(RecordError::Version { what, version });
        }
        self.flexible = version >= flexible_from;
        Ok(version)
    }

    pub fn i8(&mut self) -> Result<i8> {
        self.fixed().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub fn uuid(&mut self) -> Result<Uuid> {
        self.fixed().map(Uuid::from_bytes)
    }

    pub fn string(&mut self) -> Result<StrBytes> {
        self.string_or_null()?.ok_or(RecordError::Malformed)
    }

    pub fn string_or_null(&mut self) -> Result<Option<StrBytes>> {
        let length = if self.flexible { self.compact_length()? } else { length(self.i16()?.into())? };
        let Some(length) = length else { return Ok(None) };
        let text = std::str::from_utf8(self.slice(length)?).map_err(|_| RecordError::Malformed)?;
        Ok(Some(StrBytes::from_string(text.to_owned())))
    }

    pub fn bytes(&mut self) -> Result<Bytes> {
        self.bytes_or_null()?.ok_or(RecordError::Malformed)
    }

    pub fn bytes_or_null(&mut self) -> Result<Option<Bytes>> {
        let Some(length) = self.long_length()? else { return Ok(None) };
        Ok(Some(Bytes::copy_from_slice(self.slice(length)?)))
    }

    /// The number of elements that an array claims to have.
    pub fn array(&mut self) -> Result<usize> {
        self.array_or_null()?.ok_or(RecordError::Malformed)
    }

    pub fn array_or_null(&mut self) -> Result<Option<usize>> {
        self.long_length()
    }

    /// The end of a struct: in the flexible form tagged fields, none of which is of use here.
    pub fn tags(&mut self) -> Result<()> {
        self.tagged(|_, _| Ok(()))
    }

    /// The end of a struct, with a look at each tagged field of the flexible form.
    pub fn tagged(&mut self, mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<()>) -> Result<()> {
        if self.flexible {
            for _ in 0..self.varint()? {
                let tag = self.varint()?;
                let size = self.varint()?;
                field(tag, &mut Reader { rest: self.slice(size as usize)?, flexible: true })?;
            }
        }
        Ok(())
    }

    fn long_length(&mut self) -> Result<Option<usize>> {
        if self.flexible { self.compact_length() } else { length(self.i32()?) }
    }

    /// One more than the length; 0 is null.
    fn compact_length(&mut self) -> Result<Option<usize>> {
        Ok((self.varint()? as usize).checked_sub(1))
    }

    fn varint(&mut self) -> Result<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.fixed()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(RecordError::Malformed)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(RecordError::Malformed)?;
        self.rest = rest;
        Ok(*field)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let (slice, rest) = self.rest.split_at_checked(length).ok_or(RecordError::Malformed)?;
        self.rest = rest;
        Ok(slice)
    }
}

/// -1 is null.
fn length(claimed: i32) -> Result<Option<usize>> {
    match claimed {
        -1 => Ok(None),
        _ => usize::try_from(claimed).map(Some).map_err(|_| RecordError::Malformed),
    }
}
