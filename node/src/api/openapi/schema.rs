//! Schemas of rows.

use selvedge_http::describe::or_null;
use selvedge_node_core::table::{ColumnKind, Field};
use std::collections::BTreeMap;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};

/// Columns as an object; the first `always` of them are present in every answer.
pub(super) fn object(fields: &[Field], always: usize) -> Schema {
    let kind = |kind: ColumnKind| match kind {
        ColumnKind::Text => or_null(Type::String),
        ColumnKind::Whole => {
            or_null(Type::Integer).format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        }
        ColumnKind::Real => {
            or_null(Type::Number).format(Some(SchemaFormat::KnownFormat(KnownFormat::Double)))
        }
        ColumnKind::Flag => or_null(Type::Boolean),
        ColumnKind::Time => {
            or_null(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        }
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
        ("site", ColumnKind::Text),
        ("shard", ColumnKind::Whole),
        ("first_seq", ColumnKind::Whole),
        ("last_seq", ColumnKind::Whole),
        ("batches", ColumnKind::Whole),
        ("found", ColumnKind::Time),
        ("found_ms", ColumnKind::Whole),
        ("lost_at_site", ColumnKind::Flag),
        ("readings", ColumnKind::Whole),
        ("parts", ColumnKind::Whole),
        ("windows_from", ColumnKind::Time),
        ("windows_to", ColumnKind::Time),
    ];
    let fields = fields.map(|(name, kind)| Field::new(name, kind));
    ArrayBuilder::new().items(RefOr::T(object(&fields, fields.len()))).build().into()
}
