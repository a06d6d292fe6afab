//! Answers from a dataset: an SQLite file with prompts by hash and the tokens to answer with (simulator.md §12).
//! Called by `reply` while it decides what to say; the database is asked on a thread that may block.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::tokenizer::Tokens;

/// Columns a table must have, and their types.
const COLUMNS: [(&str, &str); 4] = [
    ("id", "INTEGER"),
    ("prompt_hash", "BLOB"),
    ("gen_tokens", "JSON"),
    ("n_gen_tokens", "INTEGER"),
];

/// Longest stored answer read, bytes of JSON.
const MAX_ANSWER_BYTES: i64 = 16 << 20;

/// Connections to a file at once; an in-memory copy has one, which all share.
const CONNECTIONS: usize = 4;

/// Where the dataset is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// SQLite file.
    pub path: PathBuf,
    /// Table.
    pub table: String,
    /// Copy it into memory first.
    pub in_memory: bool,
}

/// Why a dataset cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// There is no such file.
    #[error("database file does not exist: {}", .0.display())]
    Missing(PathBuf),
    /// The table's name could be read as more than a name.
    #[error("dataset-table-name {0:?} must be letters, digits and underscores")]
    TableName(String),
    /// A column is not there.
    #[error("missing expected column in {table} table: {column}")]
    Column {
        /// Table.
        table: String,
        /// Column.
        column: &'static str,
    },
    /// A column holds something else.
    #[error("column {column} has incorrect type: expected {expected}, got {got}")]
    Type {
        /// Column.
        column: &'static str,
        /// Type it must have.
        expected: &'static str,
        /// Type it has.
        got: String,
    },
    /// Someone else writes it.
    #[error("database is locked or has other active connections: {}", .0.display())]
    Locked(PathBuf),
    /// The file is no database, or is damaged.
    #[error("cannot read the dataset {}: {what}", .path.display())]
    Broken {
        /// File.
        path: PathBuf,
        /// What SQLite said.
        what: String,
    },
    /// The table has no row.
    #[error("Dataset is empty")]
    Empty,
    /// A stored answer is not a list of strings.
    #[error("row {id} of the dataset: gen_tokens is not a JSON list of strings: {what}")]
    Answer {
        /// Row.
        id: i64,
        /// What is wrong.
        what: String,
    },
    /// The thread that asks the database is gone.
    #[error("the dataset cannot be asked: {0}")]
    Thread(String),
}

/// What an answer must be like.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Most tokens; with `exact` the number of tokens.
    pub limit: usize,
    /// `ignore_eos`: exactly `limit` tokens, if a row can be had.
    pub exact: bool,
    /// Makes the choice among rows reproducible.
    pub seed: u64,
}

/// An open dataset.
#[derive(Debug)]
pub struct Dataset {
    source: Source,
    connections: Vec<Mutex<Connection>>,
}

/// The key of a prompt: SHA-256 over its messages as `### role:`, new line, content, new line.
pub fn prompt_hash<'a>(messages: impl Iterator<Item = (&'a str, &'a str)>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (role, content) in messages {
        for part in ["### ", role, ":\n", content, "\n"] {
            hash.update(part.as_bytes());
        }
    }
    hash.finalize().into()
}

impl Dataset {
    /// Opens and checks a dataset. Blocks.
    ///
    /// # Errors
    /// It is not there, locked, no database, or of another shape.
    pub fn open(source: Source) -> Result<Self, DatasetError> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if source.table.is_empty() || !source.table.chars().all(word) {
            return Err(DatasetError::TableName(source.table));
        }
        if !source.path.is_file() {
            return Err(DatasetError::Missing(source.path));
        }
        let broken = |e: rusqlite::Error| explain(&source.path, &e);
        let open =
            || Connection::open_with_flags(&source.path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(broken);
        let first = open()?;
        check(&source, &first)?;
        let connections = if source.in_memory {
            vec![Mutex::new(copy(&source, &first).map_err(broken)?)]
        } else {
            let others = (1..CONNECTIONS).map(|_| open());
            let all: Result<Vec<_>, _> = std::iter::once(Ok(first)).chain(others).collect();
            all?.into_iter().map(Mutex::new).collect()
        };
        Ok(Dataset { source, connections })
    }

    /// An answer to the prompt with this key; shorter than wanted where the dataset has nothing longer.
    ///
    /// # Errors
    /// The table is empty, or damaged.
    pub async fn answer(self: &Arc<Self>, hash: [u8; 32], wanted: Wanted) -> Result<Tokens, DatasetError> {
        let dataset = self.clone();
        let asked = tokio::task::spawn_blocking(move || dataset.ask(&hash, wanted));
        asked
            .await
            .unwrap_or_else(|e| Err(DatasetError::Thread(e.to_string())))
    }

    fn ask(&self, hash: &[u8; 32], wanted: Wanted) -> Result<Tokens, DatasetError> {
        let free = self.connections.iter().find_map(Mutex::try_lock);
        let connection = match free {
            Some(connection) => connection,
            None => self.connections[wanted.seed as usize % self.connections.len()].lock(),
        };
        let broken = |e: rusqlite::Error| explain(&self.source.path, &e);
        let id = self
            .choose(&connection, hash, wanted)
            .map_err(broken)?
            .ok_or(DatasetError::Empty)?;
        let sql = format!(
            "SELECT gen_tokens FROM {} WHERE rowid = ?1 AND length(gen_tokens) <= ?2",
            self.source.table
        );
        let stored: Option<String> = connection
            .query_row(&sql, params![id, MAX_ANSWER_BYTES], |row| row.get(0))
            .optional()
            .map_err(broken)?;
        let wrong = |what: String| DatasetError::Answer { id, what };
        let stored = stored.ok_or_else(|| wrong(format!("longer than {MAX_ANSWER_BYTES} bytes")))?;
        let parts: Vec<String> = serde_json::from_str(&stored).map_err(|e| wrong(e.to_string()))?;
        Ok(parts.iter().take(wanted.limit).map(String::as_str).collect())
    }

    /// The row to answer with: of the rows with this prompt, else of all, one that fits, else any to be cut.
    fn choose(
        &self,
        connection: &Connection,
        hash: &[u8; 32],
        wanted: Wanted,
    ) -> rusqlite::Result<Option<i64>> {
        let compare = if wanted.exact { "=" } else { "<=" };
        let mut rng = SmallRng::seed_from_u64(wanted.seed);
        let limit = i64::try_from(wanted.limit).unwrap_or(i64::MAX);
        for (condition, known) in [
            (format!("prompt_hash = ?1 AND n_gen_tokens {compare} ?2"), true),
            ("prompt_hash = ?1 AND n_gen_tokens > ?2".to_owned(), true),
            ("prompt_hash = ?1 AND ?2 = ?2".to_owned(), true),
            (format!("n_gen_tokens {compare} ?2"), false),
            ("n_gen_tokens > ?2".to_owned(), false),
            ("?2 = ?2".to_owned(), false),
        ] {
            let id = if known {
                self.one_of(connection, &condition, hash, limit, &mut rng)?
            } else {
                self.any(connection, &condition, limit, &mut rng)?
            };
            if id.is_some() {
                return Ok(id);
            }
        }
        Ok(None)
    }

    /// One of the rows of a prompt; they are few, so they are counted.
    fn one_of(
        &self,
        connection: &Connection,
        condition: &str,
        hash: &[u8; 32],
        limit: i64,
        rng: &mut SmallRng,
    ) -> rusqlite::Result<Option<i64>> {
        let table = &self.source.table;
        let count = format!("SELECT count(*) FROM {table} WHERE {condition}");
        let count: i64 = connection
            .prepare_cached(&count)?
            .query_row(params![hash, limit], |r| r.get(0))?;
        if count == 0 {
            return Ok(None);
        }
        let at = rng.random_range(0..count);
        let sql = format!("SELECT rowid FROM {table} WHERE {condition} ORDER BY rowid LIMIT 1 OFFSET ?3");
        connection
            .prepare_cached(&sql)?
            .query_row(params![hash, limit, at], |r| r.get(0))
            .optional()
    }

    /// One of all rows, without counting a large table: the first from a random place on that fits.
    fn any(
        &self,
        connection: &Connection,
        condition: &str,
        limit: i64,
        rng: &mut SmallRng,
    ) -> rusqlite::Result<Option<i64>> {
        let table = &self.source.table;
        let last = format!("SELECT coalesce(max(rowid), 0) FROM {table}");
        let last: i64 = connection.prepare_cached(&last)?.query_row([], |r| r.get(0))?;
        let from = rng.random_range(0..=last.max(0));
        for order in [">=", "<"] {
            let sql = format!(
                "SELECT rowid FROM {table} WHERE rowid {order} ?1 AND {condition} ORDER BY rowid LIMIT 1"
            );
            let found = connection
                .prepare_cached(&sql)?
                .query_row(params![from, limit], |r| r.get(0))
                .optional()?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// Are the columns there, and of their types?
fn check(source: &Source, connection: &Connection) -> Result<(), DatasetError> {
    let broken = |e: rusqlite::Error| explain(&source.path, &e);
    let mut columns = connection
        .prepare(&format!("PRAGMA table_info({})", source.table))
        .map_err(broken)?;
    let found = columns
        .query_map([], |row| Ok((row.get(1)?, row.get(2)?)))
        .map_err(broken)?;
    let found: Vec<(String, String)> = found.collect::<Result<_, _>>().map_err(broken)?;
    for (column, expected) in COLUMNS {
        match found.iter().find(|(name, _)| name == column) {
            None => {
                return Err(DatasetError::Column {
                    table: source.table.clone(),
                    column,
                });
            }
            Some((_, got)) if !got.eq_ignore_ascii_case(expected) => {
                return Err(DatasetError::Type {
                    column,
                    expected,
                    got: got.clone(),
                });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Copies the table into memory, with an index over the prompts.
fn copy(source: &Source, from: &Connection) -> rusqlite::Result<Connection> {
    let table = &source.table;
    let to = Connection::open_in_memory()?;
    to.execute_batch(&format!(
        "CREATE TABLE {table} (id INTEGER PRIMARY KEY, prompt_hash BLOB, gen_tokens JSON, n_gen_tokens INTEGER);
         CREATE INDEX by_prompt ON {table} (prompt_hash); BEGIN"
    ))?;
    let mut rows = from.prepare(&format!(
        "SELECT rowid, prompt_hash, gen_tokens, n_gen_tokens FROM {table}"
    ))?;
    let mut rows = rows.query([])?;
    {
        let mut insert = to.prepare(&format!("INSERT INTO {table} VALUES (?1, ?2, ?3, ?4)"))?;
        while let Some(row) = rows.next()? {
            insert.execute(params![
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, i64>(3)?
            ])?;
        }
    }
    to.execute_batch("COMMIT")?;
    Ok(to)
}

fn explain(path: &Path, error: &rusqlite::Error) -> DatasetError {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked) => DatasetError::Locked(path.to_owned()),
        _ => DatasetError::Broken {
            path: path.to_owned(),
            what: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rows: &[(&str, &[&str])]) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.sqlite3");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "CREATE TABLE llmd (id INTEGER PRIMARY KEY, prompt_hash BLOB, gen_tokens JSON, n_gen_tokens INTEGER)",
        )
        .unwrap();
        for (prompt, tokens) in rows {
            let hash = prompt_hash([("user", *prompt)].into_iter());
            let json = serde_json::to_string(tokens).unwrap();
            db.execute(
                "INSERT INTO llmd (prompt_hash, gen_tokens, n_gen_tokens) VALUES (?1, ?2, ?3)",
                params![hash, json, i64::try_from(tokens.len()).unwrap()],
            )
            .unwrap();
        }
        let source = Source {
            path,
            table: "llmd".into(),
            in_memory: false,
        };
        (folder, source)
    }

    #[test]
    fn the_key_is_over_roles_and_contents() {
        let hash = prompt_hash([("user", "hello")].into_iter());
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        // As `sha256sum` says.
        let expected = "831746c32202af1fbf174042b46be240367512984e3771989c98ddb9463ef09c";
        assert_eq!(hex, expected);
    }

    #[test]
    fn rows_of_the_prompt_come_first_and_long_ones_are_cut() {
        let known: &[&str] = &["a ", "b ", "c "];
        let other: &[&str] = &["x ", "y ", "z ", "w ", "v "];
        for in_memory in [false, true] {
            let (_folder, source) = file(&[("known", known), ("other", other)]);
            let dataset = Dataset::open(Source { in_memory, ..source }).unwrap();
            let ask = |prompt: &str, limit, exact, seed| {
                let hash = prompt_hash([("user", prompt)].into_iter());
                let wanted = Wanted { limit, exact, seed };
                dataset.ask(&hash, wanted).unwrap().text().to_owned()
            };
            for seed in 0..20 {
                assert_eq!(ask("known", 10, false, seed), "a b c ");
                assert_eq!(ask("known", 2, false, seed), "a b ");
                assert_eq!(ask("known", 2, true, seed), "a b ");
                assert_eq!(
                    ask("known", 4, true, seed),
                    "a b c ",
                    "shorter: the caller pads it"
                );
                assert_eq!(ask("unknown", 4, false, seed), "a b c ");
                assert_eq!(ask("unknown", 5, true, seed), "x y z w v ");
                assert!(["a b ", "x y "].contains(&ask("unknown", 2, false, seed).as_str()));
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_dataset_is_said() {
        let (folder, source) = file(&[]);
        let error = |s: &Source| Dataset::open(s.clone()).unwrap_err().to_string();
        let path = |name: &str| folder.path().join(name);
        let missing = Source {
            path: path("none"),
            ..source.clone()
        };
        assert!(error(&missing).starts_with("database file does not exist: "));
        let table = Source {
            table: "x".into(),
            ..source.clone()
        };
        assert_eq!(error(&table), "missing expected column in x table: id");
        let name = Source {
            table: "x; DROP".into(),
            ..source.clone()
        };
        assert!(error(&name).contains("must be letters"));
        std::fs::write(
            path("text"),
            "this is no database, it is a text that is long enough",
        )
        .unwrap();
        let text = Source {
            path: path("text"),
            ..source.clone()
        };
        assert!(
            error(&text).contains("file is not a database"),
            "{}",
            error(&text)
        );
        let db = Connection::open(path("types")).unwrap();
        db.execute_batch("CREATE TABLE llmd (id INTEGER PRIMARY KEY, prompt_hash TEXT, gen_tokens JSON, n_gen_tokens INTEGER)")
            .unwrap();
        let types = Source {
            path: path("types"),
            ..source.clone()
        };
        assert_eq!(
            error(&types),
            "column prompt_hash has incorrect type: expected BLOB, got TEXT"
        );
        let holder = Connection::open(&source.path).unwrap();
        holder
            .execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE")
            .unwrap();
        assert!(error(&source).starts_with("database is locked or has other active connections: "));
        holder.execute_batch("COMMIT").unwrap();
        drop(holder);
        let empty = Dataset::open(source).unwrap();
        let wanted = Wanted {
            limit: 5,
            exact: false,
            seed: 1,
        };
        assert!(
            empty
                .ask(&[0; 32], wanted)
                .unwrap_err()
                .to_string()
                .contains("Dataset is empty")
        );
    }

    #[test]
    fn an_answer_that_is_no_list_is_named() {
        let (_folder, source) = file(&[]);
        let db = Connection::open(&source.path).unwrap();
        db.execute("INSERT INTO llmd VALUES (7, x'00', 'oops', 3)", [])
            .unwrap();
        let dataset = Dataset::open(source).unwrap();
        let wanted = Wanted {
            limit: 5,
            exact: false,
            seed: 1,
        };
        let error = dataset.ask(&[0; 32], wanted).unwrap_err().to_string();
        assert!(error.starts_with("row 7 of the dataset: "), "{error}");
    }
}
