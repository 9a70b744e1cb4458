//! Schemas of rows.

use selvedge_http::describe::or_null;
use selvedge_node_core::table::{Field, Kind};
use std::collections::BTreeMap;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};

/// Columns as an object; the first `always` of them are present in every answer.
pub(super) fn object(fields: &[Field], always: usize) -> Schema {
    let kind = |kind: Kind| match kind {
        Kind::Text => or_null(Type::String),
        Kind::Whole => or_null(Type::Integer).format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64))),
        Kind::Real => or_null(Type::Number).format(Some(SchemaFormat::KnownFormat(KnownFormat::Double))),
        Kind::Flag => or_null(Type::Boolean),
        Kind::Time => or_null(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))),
    };
    let one = |field: &Field| {
        kind(field.kind).description(Some(field.meaning).filter(|meaning| !meaning.is_empty()))
    };
    let mut all = ObjectBuilder::new();
    let mut inner: BTreeMap<&str, ObjectBuilder> = BTreeMap::new();
    for (at, field) in fields.iter().enumerate() {
        match field.name.split_once('.') {
            Some((outer, name)) => {
                let object = inner.remove(outer).unwrap_or_default();
                inner.insert(outer, object.property(name, one(field)));
            }
            None => {
                all = all.property(field.name.as_ref(), one(field));
                if at < always {
                    all = all.required(field.name.as_ref());
                }
            }
        }
    }
    for (name, object) in inner {
        all = all.property(name, object);
    }
    all.build().into()
}

pub(super) fn holes() -> Schema {
    let fields = [
        ("site", Kind::Text),
        ("shard", Kind::Whole),
        ("first_seq", Kind::Whole),
        ("last_seq", Kind::Whole),
        ("batches", Kind::Whole),
        ("found", Kind::Time),
        ("found_ms", Kind::Whole),
        ("lost_at_site", Kind::Flag),
        ("readings", Kind::Whole),
        ("parts", Kind::Whole),
        ("windows_from", Kind::Time),
        ("windows_to", Kind::Time),
    ];
    let fields = fields.map(|(name, kind)| Field::new(name, kind));
    ArrayBuilder::new().items(RefOr::T(object(&fields, fields.len()))).build().into()
}
