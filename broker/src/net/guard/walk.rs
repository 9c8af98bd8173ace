//! Walks a request by its shape.

use super::shape::{Field, Kind, Request, Struct, Tagged};
use super::{Cost, Flaw, GuardError, Limits};

/// What decoding takes at the least, in bytes: the shared ownership of the request's buffer.
const DECODE_BASE: usize = 64;
/// The memory of a `StrBytes` or `Bytes`, in bytes.
const STRING_MEMORY: usize = 32;
/// The memory of a `Vec`, in bytes.
const VEC_MEMORY: usize = 24;
/// A map of unknown tagged fields costs a whole leaf node for the first entry. Further entries cost their
/// share of leaves, which are at least 5/11 full, and of the nodes above.
const TAG_MAP_FIRST: usize = 416;
const TAG_MAP_ENTRY: usize = 104;

type Checked<T = ()> = Result<T, GuardError>;

/// Checks a body whose version the request has.
pub(super) fn check(request: &Request, version: i16, body: &[u8], limits: &Limits) -> Checked<Cost> {
    let mut walk = Walk {
        input: Input::new(body),
        version,
        flexible: version >= request.flexible_from,
        decoded_bytes: DECODE_BASE,
        decoded_bytes_max: limits.decoded_bytes_max,
    };
    walk.structure(request.body, request.name)?;
    Ok(Cost { decoded_bytes: walk.decoded_bytes, body_bytes: walk.input.at })
}

/// The bytes of a header or body, and how far they have been read. `path` is the field being read, for errors.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { bytes, at: 0 }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take(&mut self, count: usize, path: &'static str) -> Checked<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(taken) = rest.get(..count) else {
            let flaw = Flaw::Truncated { needs: count, left: rest.len() };
            return Err(GuardError::Malformed { field: path, at: self.at, flaw });
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, path: &'static str) -> Checked<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, path)?);
        Ok(array)
    }

    pub(super) fn int16(&mut self, path: &'static str) -> Checked<i16> {
        Ok(i16::from_be_bytes(self.array(path)?))
    }

    pub(super) fn int32(&mut self, path: &'static str) -> Checked<i32> {
        Ok(i32::from_be_bytes(self.array(path)?))
    }

    /// An unsigned varint of at most 5 bytes and 32 bits. Trailing zero groups are allowed, as Kafka does.
    pub(super) fn varint(&mut self, path: &'static str) -> Checked<u32> {
        let start = self.at;
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array(path)?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(GuardError::Malformed { field: path, at: start, flaw: Flaw::VarintTooLong })
    }

    /// The length of a string outside of flexible versions; `None` for null.
    pub(super) fn length16(&mut self, path: &'static str) -> Checked<Option<usize>> {
        let at = self.at;
        Input::length(self.int16(path)?.into(), at, path)
    }

    /// The length of bytes or an array outside of flexible versions; `None` for null.
    fn length32(&mut self, path: &'static str) -> Checked<Option<usize>> {
        let at = self.at;
        Input::length(self.int32(path)?, at, path)
    }

    fn length(length: i32, at: usize, path: &'static str) -> Checked<Option<usize>> {
        match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(GuardError::Malformed { field: path, at, flaw: Flaw::NegativeLength(length) }),
        }
    }

    /// A length in flexible versions: zero for null, else the length plus one.
    fn compact_length(&mut self, path: &'static str) -> Checked<Option<usize>> {
        Ok((self.varint(path)? as usize).checked_sub(1))
    }

    /// A count of things that take at least `size` bytes each, all of which must still be there.
    fn room_for(&self, count: usize, size: usize, at: usize, path: &'static str) -> Checked {
        let (needs, left) = (count.saturating_mul(size), self.left());
        if needs > left {
            return Err(GuardError::Malformed { field: path, at, flaw: Flaw::Truncated { needs, left } });
        }
        Ok(())
    }

    /// How many tagged fields follow.
    pub(super) fn tagged_count(&mut self, path: &'static str) -> Checked<usize> {
        let at = self.at;
        let count = self.varint(path)? as usize;
        // A tagged field has a tag and a size, of a byte each at the least.
        self.room_for(count, 2, at, path)?;
        Ok(count)
    }
}

struct Walk<'a> {
    input: Input<'a>,
    version: i16,
    flexible: bool,
    decoded_bytes: usize,
    decoded_bytes_max: usize,
}

impl Walk<'_> {
    /// Recursion ends with the schema's own nesting, because no shape contains itself.
    fn structure(&mut self, of: &Struct, path: &'static str) -> Checked {
        for field in of.fields {
            if field.versions.contain(self.version) {
                self.field(field)?;
            }
        }
        if self.flexible { self.tagged_fields(of.tagged, path) } else { Ok(()) }
    }

    fn field(&mut self, field: &Field) -> Checked {
        let path = field.path;
        match &field.kind {
            // Only a struct that may be null says whether it is there.
            Kind::Struct(of) if field.nullable.contain(self.version) => {
                let at = self.input.at;
                let [marker] = self.input.array(path)?;
                match marker.cast_signed() {
                    1 => self.structure(of, path),
                    -1 => Ok(()),
                    // Kafka reads a struct after any marker that is not negative, the decoder after 1 only.
                    other => self.malformed(path, at, Flaw::StructMarker(other)),
                }
            }
            kind => {
                let at = self.input.at;
                let present = self.value(kind, path)?;
                if present || field.nullable.contain(self.version) {
                    return Ok(());
                }
                self.malformed(path, at, Flaw::Null)
            }
        }
    }

    /// Reads a value and says whether there was one: `false` for null.
    fn value(&mut self, kind: &Kind, path: &'static str) -> Checked<bool> {
        match kind {
            Kind::Fixed(size) => {
                self.input.take(*size, path)?;
            }
            Kind::Struct(of) => self.structure(of, path)?,
            Kind::String => {
                let at = self.input.at;
                let Some(length) = self.string_length(path)? else { return Ok(false) };
                let text = self.input.take(length, path)?;
                if str::from_utf8(text).is_err() {
                    return self.malformed(path, at, Flaw::NotUtf8);
                }
            }
            Kind::Bytes => {
                let Some(length) = self.long_length(path)? else { return Ok(false) };
                self.input.take(length, path)?;
            }
            Kind::Array(element) => return self.array(element, path),
        }
        Ok(true)
    }

    fn array(&mut self, element: &Kind, path: &'static str) -> Checked<bool> {
        let at = self.input.at;
        let Some(count) = self.long_length(path)? else { return Ok(false) };
        let (wire_min, memory) = match element {
            Kind::Fixed(size) => (*size, *size),
            Kind::String | Kind::Bytes => (1, STRING_MEMORY),
            Kind::Array(_) => (1, VEC_MEMORY),
            Kind::Struct(of) => (1, of.memory),
        };
        self.input.room_for(count, wire_min, at, path)?;
        self.charge(count.saturating_mul(memory), at, path)?;
        if let Kind::Fixed(size) = element {
            self.input.take(count * size, path)?;
            return Ok(true);
        }
        for _ in 0..count {
            let at = self.input.at;
            if !self.value(element, path)? {
                return self.malformed(path, at, Flaw::Null);
            }
        }
        Ok(true)
    }

    fn tagged_fields(&mut self, known: &[Tagged], path: &'static str) -> Checked {
        let mut entry_memory = TAG_MAP_FIRST;
        for _ in 0..self.input.tagged_count(path)? {
            let at = self.input.at;
            let tag = self.input.varint(path)?;
            let claimed = self.input.varint(path)? as usize;
            let Some(tagged) = known.iter().find(|tagged| tagged.tag == tag) else {
                self.charge(entry_memory, at, path)?;
                entry_memory = TAG_MAP_ENTRY;
                self.input.take(claimed, path)?;
                continue;
            };
            let path = tagged.field.path;
            if !tagged.field.versions.contain(self.version) {
                return self.malformed(path, at, Flaw::TagNotInVersion(tag));
            }
            let start = self.input.at;
            self.field(&tagged.field)?;
            let actual = self.input.at - start;
            if actual != claimed {
                return self.malformed(path, at, Flaw::TagSize { claimed, actual });
            }
        }
        Ok(())
    }

    fn string_length(&mut self, path: &'static str) -> Checked<Option<usize>> {
        if self.flexible { self.input.compact_length(path) } else { self.input.length16(path) }
    }

    fn long_length(&mut self, path: &'static str) -> Checked<Option<usize>> {
        if self.flexible { self.input.compact_length(path) } else { self.input.length32(path) }
    }

    fn charge(&mut self, bytes: usize, at: usize, path: &'static str) -> Checked {
        self.decoded_bytes = self.decoded_bytes.saturating_add(bytes);
        if self.decoded_bytes > self.decoded_bytes_max {
            return Err(GuardError::TooMuchMemory {
                field: path,
                at,
                decoded_bytes: self.decoded_bytes,
                max: self.decoded_bytes_max,
            });
        }
        Ok(())
    }

    #[cold]
    fn malformed<T>(&self, field: &'static str, at: usize, flaw: Flaw) -> Checked<T> {
        Err(GuardError::Malformed { field, at, flaw })
    }
}
