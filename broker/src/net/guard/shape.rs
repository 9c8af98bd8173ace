//! What a message looks like on the wire, as data: the row types of the generated [`super::shapes`].

/// An inclusive range of API versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions(pub i16, pub i16);

/// No version at all.
pub const NEVER: Versions = Versions(0, -1);

impl Versions {
    pub const fn contain(self, version: i16) -> bool {
        self.0 <= version && version <= self.1
    }
}

/// One request of the protocol.
#[derive(Debug)]
pub struct Request {
    pub api_key: i16,
    /// Kafka's name without `Request`.
    pub name: &'static str,
    /// The versions that Kafka's schema describes.
    pub versions: Versions,
    /// From this version on lengths are compact, structs end in tagged fields (KIP-482) and the request
    /// header is version 2; `i16::MAX` if never.
    pub flexible_from: i16,
    pub body: &'static Struct,
}

#[derive(Debug)]
pub struct Struct {
    /// In wire order.
    pub fields: &'static [Field],
    pub tagged: &'static [Tagged],
    /// An upper bound, in bytes, of the decoded struct itself, without what it points to.
    pub memory: usize,
}

#[derive(Debug)]
pub struct Field {
    /// `Produce.TopicData.Name`: said in errors.
    pub path: &'static str,
    pub kind: Kind,
    pub versions: Versions,
    pub nullable: Versions,
}

/// A range of versions, short for the generated table.
pub const fn v(first: i16, last: i16) -> Versions {
    Versions(first, last)
}

/// A field, short for the generated table.
pub const fn field(path: &'static str, kind: Kind, versions: Versions, nullable: Versions) -> Field {
    Field { path, kind, versions, nullable }
}

/// A field that is written among the tagged fields of its struct, if at all.
#[derive(Debug)]
pub struct Tagged {
    pub tag: u32,
    pub field: Field,
}

#[derive(Debug)]
pub enum Kind {
    /// So many bytes, any of whose values is valid. They take as many in memory.
    Fixed(usize),
    /// UTF-8 after an int16 or compact length.
    String,
    /// Opaque bytes (records too) after an int32 or compact length.
    Bytes,
    Struct(&'static Struct),
    /// Elements, which are never null, after an int32 or compact count.
    Array(&'static Kind),
}

pub const BOOL: Kind = Kind::Fixed(1);
pub const INT8: Kind = Kind::Fixed(1);
pub const INT16: Kind = Kind::Fixed(2);
pub const UINT16: Kind = Kind::Fixed(2);
pub const INT32: Kind = Kind::Fixed(4);
pub const INT64: Kind = Kind::Fixed(8);
pub const FLOAT64: Kind = Kind::Fixed(8);
pub const UUID: Kind = Kind::Fixed(16);
