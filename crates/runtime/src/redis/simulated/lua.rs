//! Scripts: Lua 5.1 with `redis.call`, and the conversions of values that Redis makes.

use std::sync::{Mutex, PoisonError};

use mlua::{Lua, LuaOptions, MultiValue, StdLib, Variadic};
use redis::{RedisResult, Value};

use super::{Server, refusal};

pub(super) fn eval(
    server: &mut Server,
    script: &str,
    keys: &[Vec<u8>],
    args: &[Vec<u8>],
) -> RedisResult<Value> {
    run(server, script, keys, args).map_err(|error| {
        tracing::error!(%error, "a script failed in the simulated Redis");
        refusal("ERR", "the script failed")
    })
}

fn run(server: &mut Server, script: &str, keys: &[Vec<u8>], args: &[Vec<u8>]) -> mlua::Result<Value> {
    let lua = match server.lua.take() {
        Some(lua) => lua,
        None => Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH, LuaOptions::default())?,
    };
    let answer = run_in(&lua, server, script, keys, args);
    server.lua = Some(lua);
    answer
}

fn run_in(
    lua: &Lua,
    server: &mut Server,
    script: &str,
    keys: &[Vec<u8>],
    args: &[Vec<u8>],
) -> mlua::Result<Value> {
    let strings = |words: &[Vec<u8>]| {
        let words = words.iter().map(|word| lua.create_string(word)).collect::<mlua::Result<Vec<_>>>()?;
        lua.create_sequence_from(words)
    };
    lua.globals().set("KEYS", strings(keys)?)?;
    lua.globals().set("ARGV", strings(args)?)?;
    let server = Mutex::new(server);
    lua.scope(|scope| {
        let call = scope.create_function(|lua, words: Variadic<mlua::Value>| {
            let words = words.iter().map(word).collect::<mlua::Result<Vec<_>>>()?;
            let name = words.first().map(|name| String::from_utf8_lossy(name).to_ascii_uppercase());
            let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = server.simple(&name.unwrap_or_default(), &words);
            to_lua(lua, answer.map_err(mlua::Error::external)?)
        })?;
        let redis = lua.create_table()?;
        redis.set("call", call)?;
        lua.globals().set("redis", redis)?;
        let returned: MultiValue = lua.load(script).eval()?;
        from_lua(returned.into_iter().next().unwrap_or(mlua::Value::Nil))
    })
}

/// A number becomes text as Lua 5.1 writes it.
#[expect(clippy::wildcard_enum_match_arm, reason = "of the many values of Lua and Redis these are used")]
fn word(value: &mlua::Value) -> mlua::Result<Vec<u8>> {
    match value {
        mlua::Value::String(text) => Ok(text.as_bytes().to_vec()),
        mlua::Value::Integer(number) => Ok(number.to_string().into_bytes()),
        mlua::Value::Number(number) => Ok(number.to_string().into_bytes()),
        _ => Err(mlua::Error::external("arguments of redis.call are texts or numbers")),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "of the many values of Lua and Redis these are used")]
fn to_lua(lua: &Lua, value: Value) -> mlua::Result<mlua::Value> {
    match value {
        Value::Nil => Ok(mlua::Value::Boolean(false)),
        Value::Int(number) => Ok(mlua::Value::Number(number as f64)),
        Value::BulkString(text) => lua.create_string(text).map(mlua::Value::String),
        Value::Array(values) => {
            let values =
                values.into_iter().map(|value| to_lua(lua, value)).collect::<mlua::Result<Vec<_>>>()?;
            lua.create_sequence_from(values).map(mlua::Value::Table)
        }
        Value::Okay | Value::SimpleString(_) => {
            let status = lua.create_table()?;
            status.set("ok", "OK")?;
            Ok(mlua::Value::Table(status))
        }
        _ => Err(mlua::Error::external("a value that no script gets")),
    }
}

/// What a script returns: a table ends at its first nil, a number loses its fraction.
#[expect(clippy::wildcard_enum_match_arm, reason = "of the many values of Lua and Redis these are used")]
fn from_lua(value: mlua::Value) -> mlua::Result<Value> {
    match value {
        mlua::Value::Nil | mlua::Value::Boolean(false) => Ok(Value::Nil),
        mlua::Value::Boolean(true) => Ok(Value::Int(1)),
        mlua::Value::Integer(number) => Ok(Value::Int(number)),
        #[expect(clippy::cast_possible_truncation, reason = "as Redis does")]
        mlua::Value::Number(number) => Ok(Value::Int(number as i64)),
        mlua::Value::String(text) => Ok(Value::BulkString(text.as_bytes().to_vec())),
        mlua::Value::Table(table) => {
            let mut values = Vec::new();
            for value in table.sequence_values::<mlua::Value>() {
                values.push(from_lua(value?)?);
            }
            Ok(Value::Array(values))
        }
        _ => Err(mlua::Error::external("a value that no script returns")),
    }
}
