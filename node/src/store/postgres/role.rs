//! The role that statements of `POST /v1/sql` run as: it may read the views, and has no other right.
//!
//! The node creates the role if it may create roles. Otherwise an administrator does so, once.

use super::super::StoreError;
use super::link::{Postgres, Said};
use super::schema::LOCK;
use tokio_postgres::error::SqlState;

/// The role that statements of `POST /v1/sql` run as.
pub const NAME: &str = "selvedge_sql";

/// What it may read.
const VIEWS: &str = "devices, streams, windows, windows_all, minute, hour, day, holes, shards";

/// Makes the role if there is none, and lets it read the views.
///
/// # Errors
/// When there is none and it can't be made, or it may more than it should: then no statement runs.
pub async fn prepare(server: &Postgres) -> Result<(), StoreError> {
    let link = server.link_to_migrate().await?;
    let client = &link.client;
    let wrong = |why: String| StoreError::Role { why };
    // Ends with the connection. Two that grant at once would fail.
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    let known = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls \
                 OR EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid) FROM pg_roles AS r WHERE rolname = $1";
    if client.query_opt(known, &[&NAME]).await?.is_none() {
        let made = client.batch_execute(&format!("CREATE ROLE {NAME} NOLOGIN")).await;
        // Roles are the whole server's: a node at another of its databases may have been faster.
        let faster = [SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION];
        if let Err(why) = made
            && !why.code().is_some_and(|code| faster.contains(code))
        {
            return Err(wrong(format!("it is not there and can't be made: {}", Said(why))));
        }
    }
    let may_more: bool = client.query_one(known, &[&NAME]).await?.try_get(0)?;
    if may_more {
        return Err(wrong(
            "it is a superuser, may make roles or databases, or is a member of another role".into(),
        ));
    }
    let may = "SELECT pg_has_role(current_user, $1, 'MEMBER')";
    if !client.query_one(may, &[&NAME]).await?.try_get::<_, bool>(0)? {
        let granted = client.batch_execute(&format!("GRANT {NAME} TO CURRENT_USER")).await;
        granted.map_err(|why| wrong(format!("the node's user is not a member of it: {}", Said(why))))?;
    }
    let schema: String = client.query_one("SELECT quote_ident(current_schema())", &[]).await?.try_get(0)?;
    let grant = format!("GRANT USAGE ON SCHEMA {schema} TO {NAME}; GRANT SELECT ON {VIEWS} TO {NAME}");
    let granted = client.batch_execute(&grant).await;
    granted.map_err(|why| wrong(format!("it can't be given the right to read the views: {}", Said(why))))
}
