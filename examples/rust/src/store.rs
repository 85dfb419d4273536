//! What must survive a crash of this program: which refund belongs to which order, and how far the
//! event stream has been read. A shop keeps both in its database.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub struct Store {
    path: PathBuf,
    content: Content,
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    refunds: BTreeMap<String, String>,
    last_sequence: i64,
}

impl Store {
    pub fn open(path: impl Into<PathBuf>) -> anyhow::Result<Store> {
        let path = path.into();
        let content = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is not a store", path.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error).context(format!("{} could not be read", path.display())),
        };
        Ok(Store { path, content })
    }

    /// The order's refund id. A new one is on disk before it is returned.
    pub fn refund_id(&mut self, order: &str) -> anyhow::Result<String> {
        if let Some(refund_id) = self.content.refunds.get(order) {
            return Ok(refund_id.clone());
        }
        let refund_id = Uuid::new_v4().to_string();
        self.content.refunds.insert(order.to_owned(), refund_id.clone());
        self.save()?;
        Ok(refund_id)
    }

    pub fn last_sequence(&self) -> i64 {
        self.content.last_sequence
    }

    /// Not on disk before `save`.
    pub fn set_last_sequence(&mut self, sequence: i64) {
        self.content.last_sequence = sequence;
    }

    /// A new file replaces the old one at once, so that a crash leaves one of the two.
    pub fn save(&self) -> anyhow::Result<()> {
        self.replace().with_context(|| format!("{} could not be written", self.path.display()))
    }

    fn replace(&self) -> anyhow::Result<()> {
        let new = self.path.with_added_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&self.content)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }
}
