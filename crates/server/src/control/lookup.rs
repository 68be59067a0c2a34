//! What is asked for by people and fronts: agents, tasks, runs, hosts, items; one, or a page.

use std::collections::BTreeMap;

use jiff::Timestamp;
use muster_core::agent::Agent;
use muster_core::host::Host;
use muster_core::sample::Item;
use muster_core::task::Task;
use muster_core::{AgentId, HostId, ItemId, RunId, TaskId};
use muster_store::agents::{self, Enrolled};
use muster_store::runs::{self, Filter, RunEvent, StoredRun};
use muster_store::samples::Last;
use muster_store::tasks::StoredTask;
use muster_store::{StoreError, Tx, hosts, tasks};

use super::Control;
use super::error::{ControlError, Result, Trouble};

/// A page of a list: what it holds, and where the next begins.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The cursor of the next page; `None` on the last.
    pub next: Option<String>,
}

/// An agent and whether it is online.
#[derive(Clone, Debug)]
pub struct AgentView {
    /// The agent.
    pub agent: Agent,
    /// Whether it has a connection open or is within the time it was told to come again.
    pub online: bool,
}

/// A task and how many runs it has had.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// The task; its spec is the one that may be shown.
    pub task: Task,
    /// How many runs it has had.
    pub runs: i64,
}

/// A run and the names of its agents.
#[derive(Clone, Debug)]
pub struct RunView {
    /// The run.
    pub run: StoredRun,
    /// Who does it: id and name.
    pub agents: Vec<(AgentId, String)>,
}

/// An item, its host's name and its newest value.
#[derive(Clone, Debug)]
pub struct ItemView {
    /// The item.
    pub item: Item,
    /// The name of its host.
    pub host: String,
    /// Its newest value and whether it can be had.
    pub last: Option<Last>,
}

/// A comma list of what an agent can do, for sentences.
pub(super) fn kinds_of(agent: &Agent) -> String {
    if agent.capabilities.is_empty() {
        return "nothing".into();
    }
    agent
        .capabilities
        .iter()
        .map(|c| c.kind.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

impl Control {
    /// An agent by name, id or unique prefix of an id.
    ///
    /// # Errors
    /// Not found, or ambiguous.
    pub async fn find_agent(&self, name: &str) -> Result<AgentView> {
        let wanted = name.to_owned();
        let found = self
            .inner
            .store
            .read(move |tx| {
                if let Some(found) = agents::by_name(tx, &wanted)? {
                    return Ok(Ok(found));
                }
                one_of(
                    "agent",
                    &wanted,
                    agents::ids_by_prefix(tx, &wanted, 3)?,
                    tx,
                    agents::by_id,
                )
            })
            .await??;
        Ok(self.agent_view(found))
    }

    /// An agent by id.
    ///
    /// # Errors
    /// Not found.
    pub async fn agent(&self, id: AgentId) -> Result<AgentView> {
        let found = self
            .inner
            .store
            .read(move |tx| agents::by_id(tx, id))
            .await?;
        found
            .map(|e| self.agent_view(e))
            .ok_or_else(|| ControlError::not_found("agent", &id.to_string()))
    }

    /// Agents by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn agents(&self, after: Option<String>, limit: i64) -> Result<Page<AgentView>> {
        let rows = self
            .inner
            .store
            .read(move |tx| agents::list(tx, after.as_deref(), limit + 1))
            .await?;
        let views = rows
            .into_iter()
            .map(|enrolled| self.agent_view(enrolled))
            .collect();
        Ok(page(views, limit, |view: &AgentView| {
            view.agent.name.clone()
        }))
    }

    fn agent_view(&self, enrolled: Enrolled) -> AgentView {
        let agent = enrolled.agent;
        let online = self.has_session(agent.id) || agent.is_online(self.now());
        AgentView { agent, online }
    }

    /// A task by id or unique prefix.
    ///
    /// # Errors
    /// Not found, or ambiguous.
    pub async fn find_task(&self, name: &str) -> Result<TaskView> {
        let wanted = name.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let ids = tasks::ids_by_prefix(tx, &wanted, 3)?;
                match one_of("task", &wanted, ids, tx, tasks::by_id)? {
                    Ok(stored) => task_view(tx, stored).map(Ok),
                    Err(error) => Ok(Err(error)),
                }
            })
            .await?
    }

    /// A task by id.
    ///
    /// # Errors
    /// Not found.
    pub async fn task(&self, id: TaskId) -> Result<TaskView> {
        self.find_task(&id.to_string()).await
    }

    /// Tasks in the order they were submitted.
    ///
    /// # Errors
    /// When the database does not answer; a bad cursor.
    pub async fn tasks(&self, after: Option<String>, limit: i64) -> Result<Page<TaskView>> {
        let after = after.map(|text| time_cursor(&text)).transpose()?;
        let rows = self
            .inner
            .store
            .read(move |tx| {
                let rows = tasks::list(tx, after, limit + 1)?;
                rows.into_iter()
                    .map(|stored| task_view(tx, stored))
                    .collect::<Result<Vec<_>, _>>()
            })
            .await?;
        Ok(page(rows, limit, |view: &TaskView| {
            cursor(view.task.created, &view.task.id)
        }))
    }

    /// Runs in the order they were planned.
    ///
    /// # Errors
    /// When the database does not answer; a bad cursor.
    pub async fn runs(
        &self,
        filter: Filter,
        after: Option<String>,
        limit: i64,
    ) -> Result<Page<RunView>> {
        let after = after.map(|text| time_cursor(&text)).transpose()?;
        let rows = self
            .inner
            .store
            .read(move |tx| {
                let rows = runs::list(tx, &filter, after, limit + 1)?;
                rows.into_iter()
                    .map(|stored| run_view(tx, stored))
                    .collect::<Result<Vec<_>, _>>()
            })
            .await?;
        Ok(page(rows, limit, |view: &RunView| {
            cursor(view.run.run.created, &view.run.run.id)
        }))
    }

    /// Runs of a task by start, earliest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn runs_of(&self, task: TaskId, limit: i64) -> Result<Vec<StoredRun>> {
        Ok(self
            .inner
            .store
            .read(move |tx| runs::of_task(tx, task, limit))
            .await?)
    }

    /// A run by id.
    ///
    /// # Errors
    /// Not found.
    pub async fn run(&self, id: RunId) -> Result<StoredRun> {
        let found = self.inner.store.read(move |tx| runs::by_id(tx, id)).await?;
        found.ok_or_else(|| ControlError::not_found("run", &id.to_string()))
    }

    /// A run by id or unique prefix, with its agents.
    ///
    /// # Errors
    /// Not found, or ambiguous.
    pub async fn find_run(&self, name: &str) -> Result<RunView> {
        let wanted = name.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let ids = runs::ids_by_prefix(tx, &wanted, 3)?;
                match one_of("run", &wanted, ids, tx, runs::by_id)? {
                    Ok(stored) => run_view(tx, stored).map(Ok),
                    Err(error) => Ok(Err(error)),
                }
            })
            .await?
    }

    /// Every move of a run, and the parts of its result so far.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn run_story(&self, id: RunId) -> Result<(Vec<RunEvent>, Vec<String>)> {
        Ok(self
            .inner
            .store
            .read(move |tx| Ok((runs::events(tx, id)?, runs::parts(tx, id)?)))
            .await?)
    }

    /// A host by name, id or unique prefix of an id.
    ///
    /// # Errors
    /// Not found, or ambiguous.
    pub async fn find_host(&self, name: &str) -> Result<Host> {
        let wanted = name.to_owned();
        self.inner
            .store
            .read(move |tx| {
                if let Some(host) = hosts::by_name(tx, &wanted)? {
                    return Ok(Ok(host));
                }
                one_of(
                    "host",
                    &wanted,
                    hosts::ids_by_prefix(tx, &wanted, 3)?,
                    tx,
                    hosts::by_id,
                )
            })
            .await?
    }

    /// The inventory of a host, JSON text.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn inventory(&self, id: HostId) -> Result<Option<String>> {
        Ok(self
            .inner
            .store
            .read(move |tx| hosts::inventory(tx, id))
            .await?)
    }

    /// Hosts by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn hosts(&self, after: Option<String>, limit: i64) -> Result<Page<Host>> {
        let rows = self
            .inner
            .store
            .read(move |tx| hosts::list(tx, after.as_deref(), limit + 1))
            .await?;
        Ok(page(rows, limit, |host: &Host| {
            host.facts.name.clone().unwrap_or_default()
        }))
    }

    /// An item by id, unique prefix, or `HOST:KEY`.
    ///
    /// # Errors
    /// Not found, or ambiguous.
    pub async fn find_item(&self, name: &str) -> Result<ItemView> {
        let wanted = name.to_owned();
        let (item, host) = self
            .inner
            .store
            .read(move |tx| {
                let by_key = match wanted.split_once(':') {
                    Some((host, key)) => match hosts::by_name(tx, host)? {
                        Some(host) => hosts::item_by_key(tx, host.id, key)?,
                        None => None,
                    },
                    None => None,
                };
                let item = match by_key {
                    Some(item) => item,
                    None => match one_of(
                        "item",
                        &wanted,
                        hosts::item_ids_by_prefix(tx, &wanted, 3)?,
                        tx,
                        hosts::item,
                    )? {
                        Ok(item) => item,
                        Err(error) => return Ok(Err(error)),
                    },
                };
                let host = host_name(tx, item.host)?;
                Ok(Ok((item, host)))
            })
            .await??;
        let last = self
            .inner
            .values
            .last(&[item.number])
            .await?
            .remove(&item.number);
        Ok(ItemView { item, host, last })
    }

    /// Items by number, perhaps of one host only.
    ///
    /// # Errors
    /// When the database does not answer; a bad cursor.
    pub async fn items(
        &self,
        host: Option<HostId>,
        after: Option<String>,
        limit: i64,
    ) -> Result<Page<ItemView>> {
        let after = match after {
            Some(text) => text.parse::<u64>().map_err(|_| bad_cursor())?,
            None => 0,
        };
        let rows = self
            .inner
            .store
            .read(move |tx| {
                let mut names = BTreeMap::new();
                let mut rows = Vec::new();
                for item in hosts::list_items(tx, host, after, limit + 1)? {
                    let name = match names.get(&item.host) {
                        Some(name) => String::clone(name),
                        None => host_name(tx, item.host)?,
                    };
                    names.insert(item.host, name.clone());
                    rows.push((item, name));
                }
                Ok(rows)
            })
            .await?;
        let numbers: Vec<u64> = rows.iter().map(|(item, _)| item.number).collect();
        let mut last = self.inner.values.last(&numbers).await?;
        let views = rows
            .into_iter()
            .map(|(item, host)| ItemView {
                last: last.remove(&item.number),
                item,
                host,
            })
            .collect();
        Ok(page(views, limit, |view: &ItemView| {
            view.item.number.to_string()
        }))
    }

    /// How many agents approved and pending, active tasks, hosts and items there are, and runs by
    /// state.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn counts(&self) -> Result<Vec<(String, i64)>> {
        use muster_core::AgentState::{Approved, Disabled, Pending};
        Ok(self
            .inner
            .store
            .read(|tx| {
                let mut counts = Vec::new();
                for state in [Approved, Pending, Disabled] {
                    counts.push((
                        format!("agents.{}", state.word()),
                        agents::count(tx, state)?,
                    ));
                }
                counts.push(("tasks.active".into(), tasks::count_active(tx)?));
                counts.push(("hosts".into(), hosts::count(tx)?));
                counts.push(("items".into(), hosts::count_items(tx)?));
                counts.extend(
                    runs::counts(tx)?
                        .into_iter()
                        .map(|(word, n)| (format!("runs.{word}"), n)),
                );
                Ok(counts)
            })
            .await?)
    }
}

pub(super) fn host_name(tx: &mut Tx<'_>, id: HostId) -> Result<String, StoreError> {
    Ok(hosts::by_id(tx, id)?
        .and_then(|host| host.facts.name)
        .unwrap_or_else(|| id.to_string()))
}

fn task_view(tx: &mut Tx<'_>, stored: StoredTask) -> Result<TaskView, StoreError> {
    let runs = runs::count_of_task(tx, stored.task.id)?;
    Ok(TaskView {
        task: stored.task,
        runs,
    })
}

fn run_view(tx: &mut Tx<'_>, stored: StoredRun) -> Result<RunView, StoreError> {
    let holder = stored.holder.or(stored.run.agent);
    let agents = match holder {
        Some(id) => {
            let name = agents::by_id(tx, id)?.map_or_else(|| id.to_string(), |e| e.agent.name);
            vec![(id, name)]
        }
        None => Vec::new(),
    };
    Ok(RunView {
        run: stored,
        agents,
    })
}

fn one_of<I: Copy, T>(
    what: &'static str,
    wanted: &str,
    ids: Vec<I>,
    tx: &mut Tx<'_>,
    by_id: impl Fn(&mut Tx<'_>, I) -> Result<Option<T>, StoreError>,
) -> Result<Result<T>, StoreError> {
    match ids[..] {
        _ if wanted.is_empty() => Ok(Err(ControlError::not_found(what, wanted))),
        [id] => Ok(by_id(tx, id)?.ok_or_else(|| ControlError::not_found(what, wanted))),
        [] => Ok(Err(ControlError::not_found(what, wanted))),
        _ => Ok(Err(ControlError::new(
            Trouble::Conflict,
            "AMBIGUOUS_ID",
            format!(
                "more than one {what} has an id that begins with {:?}",
                wanted.chars().take(64).collect::<String>()
            ),
        )
        .next("give more of the id"))),
    }
}

fn page<T>(mut rows: Vec<T>, limit: i64, cursor: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = if more { rows.last().map(cursor) } else { None };
    Page { rows, next }
}

fn cursor(at: Timestamp, id: &impl ToString) -> String {
    format!("{}.{}", at.as_microsecond(), id.to_string())
}

fn time_cursor<I: std::str::FromStr>(text: &str) -> Result<(Timestamp, I)> {
    let (at, id) = text.split_once('.').ok_or_else(bad_cursor)?;
    let at = at
        .parse()
        .ok()
        .and_then(|at| Timestamp::from_microsecond(at).ok())
        .ok_or_else(bad_cursor)?;
    Ok((at, id.parse().map_err(|_| bad_cursor())?))
}

fn bad_cursor() -> ControlError {
    ControlError::invalid(
        "BAD_CURSOR",
        "the cursor is not one that a list has returned",
    )
    .next("begin the list again without a cursor")
}

impl Control {
    /// The item with an id.
    ///
    /// # Errors
    /// Not found.
    pub async fn item(&self, id: ItemId) -> Result<ItemView> {
        self.find_item(&id.to_string()).await
    }
}
