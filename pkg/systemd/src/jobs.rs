//! Who waits for which unit's jobs.
//!
//! A job's end may be told before the answer that names the job is read, so it is waited for by the
//! unit's name, which is known before anything is asked for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;
use zbus::OwnedObjectPath;

/// A job's end: which, and `done`, `canceled`, `timeout`, `failed`, `dependency` or `skipped`.
pub(crate) type End = (OwnedObjectPath, String);

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Jobs(Arc<Mutex<HashMap<String, Vec<mpsc::UnboundedSender<End>>>>>);

/// The ends of a unit's jobs from now on.
#[derive(Debug)]
pub(crate) struct Ends {
    jobs: Jobs,
    unit: String,
    ends: mpsc::UnboundedReceiver<End>,
}

impl Jobs {
    pub(crate) fn of_unit(&self, unit: &str) -> Ends {
        let (sender, ends) = mpsc::unbounded_channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(unit.to_owned()).or_default().push(sender);
        Ends { jobs: self.clone(), unit: unit.to_owned(), ends }
    }

    /// A job has ended. Most are nobody's here.
    pub(crate) fn ended(&self, unit: &str, job: &OwnedObjectPath, result: &str) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in waiting.get(unit).into_iter().flatten() {
            // Whoever has gone needs no answer.
            let _ = sender.send((job.clone(), result.to_owned()));
        }
    }
}

impl Ends {
    /// How this job ended; `None` if that will never be told.
    pub(crate) async fn of(&mut self, job: &OwnedObjectPath) -> Option<String> {
        loop {
            match self.ends.recv().await {
                Some((ended, result)) if ended == *job => return Some(result),
                Some(_) => {}
                None => return None,
            }
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.ends.close();
        let mut waiting = self.jobs.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(senders) = waiting.get_mut(&self.unit) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                waiting.remove(&self.unit);
            }
        }
    }
}
