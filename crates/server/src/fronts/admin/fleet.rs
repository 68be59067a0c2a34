//! Agents, enrolment keys, hosts, items and their history.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use muster_core::AgentState;
use muster_core::sample::{ItemType, ValueType};
use muster_core::time::{parse_duration, parse_duration_or_zero, parse_time, saturating_add};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::auth::Caller;
use super::json::Strict;
use super::page::{self, Page, PageQuery, Query};
use super::problem::{Problem, Refusal};
use super::views::{self, AgentView, EnrolKeyView, HostView, ItemView, SampleView};
use crate::control::{self, ControlError, Declared, HistoryRange, NewItem, NewKey};

/// Most samples of one answer.
pub(super) const SAMPLES_MAX: u32 = 100_000;

/// Samples of an answer if not asked for.
const SAMPLES_DEFAULT: u32 = 1000;

/// Longest label of a key, in characters.
const LABEL_CHARS_MAX: usize = 128;

/// Lists agents by name.
#[utoipa::path(get, path = "/agents", tag = "fleet", params(PageQuery),
    responses((status = 200, description = "What was asked for", body = Page<AgentView>), Refusal))]
pub(super) async fn list_agents(
    State(admin): State<Admin>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<AgentView>>, Problem> {
    let limit = page::limit(query.limit)?;
    let agents = admin
        .control
        .agents(page::key(query.cursor.as_deref())?, limit)
        .await?;
    Ok(Json(Page::of(agents, |view| {
        views::agent(&view.agent, view.online)
    })))
}

/// Shows an agent.
#[utoipa::path(get, path = "/agents/{agent}", tag = "fleet",
    params(("agent" = String, Path, description = "Name, id or a unique beginning of an id")),
    responses((status = 200, description = "What was asked for", body = AgentView), Refusal))]
pub(super) async fn show_agent(
    State(admin): State<Admin>,
    Path(agent): Path<String>,
) -> Result<Json<AgentView>, Problem> {
    let view = admin.control.find_agent(&agent).await?;
    Ok(Json(views::agent(&view.agent, view.online)))
}

/// Lets an agent work.
#[utoipa::path(post, path = "/agents/{agent}/approve", tag = "fleet",
    params(("agent" = String, Path, description = "Name, id or a unique beginning of an id")),
    responses((status = 200, description = "What was asked for", body = AgentView), Refusal))]
pub(super) async fn approve_agent(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
) -> Result<Json<AgentView>, Problem> {
    set_state(&admin, &caller, &agent, AgentState::Approved).await
}

/// Gives an agent nothing to do and takes nothing from it.
#[utoipa::path(post, path = "/agents/{agent}/disable", tag = "fleet",
    params(("agent" = String, Path, description = "Name, id or a unique beginning of an id")),
    responses((status = 200, description = "What was asked for", body = AgentView), Refusal))]
pub(super) async fn disable_agent(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
) -> Result<Json<AgentView>, Problem> {
    set_state(&admin, &caller, &agent, AgentState::Disabled).await
}

async fn set_state(
    admin: &Admin,
    caller: &Caller,
    name: &str,
    state: AgentState,
) -> Result<Json<AgentView>, Problem> {
    let found = admin.control.find_agent(name).await?;
    let agent = admin
        .control
        .set_agent_state(found.agent.id, state, &caller.label)
        .await?;
    Ok(Json(views::agent(&agent, found.online)))
}

/// Forgets an agent; its runs stay. Answers it as it was.
#[utoipa::path(delete, path = "/agents/{agent}", tag = "fleet",
    params(("agent" = String, Path, description = "Name, id or a unique beginning of an id")),
    responses((status = 200, description = "What was asked for", body = AgentView), Refusal))]
pub(super) async fn remove_agent(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
) -> Result<Json<AgentView>, Problem> {
    let view = admin.control.find_agent(&agent).await?;
    admin
        .control
        .remove_agent(view.agent.id, &caller.label)
        .await?;
    Ok(Json(views::agent(&view.agent, false)))
}

/// An enrolment key to make.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKeyBody {
    /// The key enrols one agent.
    #[serde(default)]
    pub once: bool,
    /// How long it enrols: ISO 8601, or 30s, 5m, 2h, 1d.
    pub expires: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub label: String,
}

/// Makes an enrolment key. It is shown this once.
#[utoipa::path(post, path = "/enrolment-keys", tag = "fleet", request_body = NewKeyBody,
    responses((status = 201, description = "What was made", body = EnrolKeyView), Refusal))]
pub(super) async fn create_key(
    State(admin): State<Admin>,
    Strict(body): Strict<NewKeyBody>,
) -> Result<Response, Problem> {
    if body.label.chars().count() > LABEL_CHARS_MAX || body.label.chars().any(char::is_control) {
        return Err(Problem::invalid(
            "label",
            "at most 128 characters, no controls",
        ));
    }
    let now = admin.control.clock().now();
    let expires = body
        .expires
        .as_deref()
        .map(|text| {
            parse_duration(text)
                .map(|duration| saturating_add(now, duration))
                .map_err(|e| Problem::invalid("expires", e.to_string()))
        })
        .transpose()?;
    let new = NewKey {
        label: body.label,
        once: body.once,
        expires,
    };
    let (key, secret) = admin.control.create_key(new).await?;
    let view = EnrolKeyView {
        key: Some(secret.expose().to_owned()),
        ..key_view(&key)
    };
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Lists enrolment keys, without the keys.
#[utoipa::path(get, path = "/enrolment-keys", tag = "fleet",
    responses((status = 200, description = "What was asked for", body = Page<EnrolKeyView>), Refusal))]
pub(super) async fn list_keys(
    State(admin): State<Admin>,
) -> Result<Json<Page<EnrolKeyView>>, Problem> {
    let keys = admin
        .control
        .store()
        .read(muster_store::access::keys)
        .await
        .map_err(ControlError::from)?;
    Ok(Json(Page::whole(keys.iter().map(key_view).collect())))
}

fn key_view(key: &muster_store::access::EnrolKey) -> EnrolKeyView {
    EnrolKeyView {
        id: key.id.to_string(),
        key: None,
        label: key.label.clone(),
        once: key.once,
        created: views::time(key.created),
        expires: key.expires.map(views::time),
        used: key.used,
    }
}

/// A host to declare; members are named as the options of `muster host create`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewHostBody {
    /// Its name, as its Zabbix agent or its proxy says it.
    pub name: String,
    /// The proxy that monitors it, by name or id; without one this server does.
    pub proxy: Option<String>,
    /// Address of its Zabbix agent; its name if not given.
    pub address: Option<String>,
    /// Port of its Zabbix agent; 10050 if not given.
    pub port: Option<u16>,
}

/// Declares a host to be monitored.
#[utoipa::path(post, path = "/hosts", tag = "fleet", request_body = NewHostBody,
    responses((status = 201, description = "What was made", body = HostView), Refusal))]
pub(super) async fn create_host(
    State(admin): State<Admin>,
    Strict(body): Strict<NewHostBody>,
) -> Result<Response, Problem> {
    let NewHostBody {
        name,
        proxy,
        address,
        port,
    } = body;
    let host = admin
        .control
        .declare_host(Declared {
            name,
            proxy,
            address,
            port,
        })
        .await?;
    let inventory = admin.control.inventory(host.id).await?;
    let view = views::host(&host, Some(inventory.as_deref()));
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Lists hosts by name, without their inventories.
#[utoipa::path(get, path = "/hosts", tag = "fleet", params(PageQuery),
    responses((status = 200, description = "What was asked for", body = Page<HostView>), Refusal))]
pub(super) async fn list_hosts(
    State(admin): State<Admin>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<HostView>>, Problem> {
    let limit = page::limit(query.limit)?;
    let hosts = admin
        .control
        .hosts(page::key(query.cursor.as_deref())?, limit)
        .await?;
    Ok(Json(Page::of(hosts, |host| views::host(&host, None))))
}

/// Shows a host with its inventory.
#[utoipa::path(get, path = "/hosts/{host}", tag = "fleet",
    params(("host" = String, Path, description = "Name, id or a unique beginning of an id")),
    responses((status = 200, description = "What was asked for", body = HostView), Refusal))]
pub(super) async fn show_host(
    State(admin): State<Admin>,
    Path(host): Path<String>,
) -> Result<Json<HostView>, Problem> {
    let host = admin.control.find_host(&host).await?;
    let inventory = admin.control.inventory(host.id).await?;
    Ok(Json(views::host(&host, Some(inventory.as_deref()))))
}

/// An item to declare; members are named as the options of `muster item create`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewItemBody {
    /// Its host, by name or id.
    pub host: String,
    /// What is sampled.
    pub key: String,
    /// How: agent, agent_active, trapper, simple, snmp, http, dependent, internal, external or script.
    #[serde(rename = "type")]
    pub item_type: String,
    /// float, unsigned, string, log or text.
    pub value_type: String,
    /// How often: ISO 8601, or 30s, 5m, 2h, 1d.
    pub delay: Option<String>,
    /// Unit of the values.
    #[serde(default)]
    pub unit: String,
    /// For people; the key if not given.
    pub name: Option<String>,
}

/// Declares an item of a host.
#[utoipa::path(post, path = "/items", tag = "fleet", request_body = NewItemBody,
    responses((status = 201, description = "What was made", body = ItemView), Refusal))]
pub(super) async fn create_item(
    State(admin): State<Admin>,
    Strict(body): Strict<NewItemBody>,
) -> Result<Response, Problem> {
    let item_type: ItemType = body
        .item_type
        .parse()
        .map_err(|e: muster_core::UnknownWord| Problem::invalid("type", e.to_string()))?;
    let value_type: ValueType = body
        .value_type
        .parse()
        .map_err(|e: muster_core::UnknownWord| Problem::invalid("value_type", e.to_string()))?;
    let delay = body
        .delay
        .as_deref()
        .map(|text| {
            parse_duration_or_zero(text).map_err(|e| Problem::invalid("delay", e.to_string()))
        })
        .transpose()?
        .filter(|delay| !delay.is_zero());
    let new = NewItem {
        host: body.host,
        key: body.key,
        item_type,
        value_type,
        delay,
        unit: body.unit,
        name: body.name,
    };
    let item = admin.control.declare_item(new).await?;
    let view = admin.control.item(item.id).await?;
    Ok((StatusCode::CREATED, Json(item_view(&view))).into_response())
}

/// Which items.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ItemQuery {
    /// Only items of this host, by name or id.
    pub host: Option<String>,
    /// 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
}

/// Lists items with their newest values.
#[utoipa::path(get, path = "/items", tag = "fleet", params(ItemQuery),
    responses((status = 200, description = "What was asked for", body = Page<ItemView>), Refusal))]
pub(super) async fn list_items(
    State(admin): State<Admin>,
    Query(query): Query<ItemQuery>,
) -> Result<Json<Page<ItemView>>, Problem> {
    let limit = page::limit(query.limit)?;
    let host = match &query.host {
        Some(host) => Some(admin.control.find_host(host).await?.id),
        None => None,
    };
    let items = admin
        .control
        .items(host, page::key(query.cursor.as_deref())?, limit)
        .await?;
    Ok(Json(Page::of(items, |view| item_view(&view))))
}

/// Shows an item with its newest value.
#[utoipa::path(get, path = "/items/{item}", tag = "fleet",
    params(("item" = String, Path, description = "Id, a unique beginning of it, or HOST:KEY")),
    responses((status = 200, description = "What was asked for", body = ItemView), Refusal))]
pub(super) async fn show_item(
    State(admin): State<Admin>,
    Path(item): Path<String>,
) -> Result<Json<ItemView>, Problem> {
    Ok(Json(item_view(&admin.control.find_item(&item).await?)))
}

fn item_view(view: &control::ItemView) -> ItemView {
    let last = view.last.as_ref();
    views::item(
        &view.item,
        &view.host,
        last.and_then(|last| last.value.as_ref()),
        last.and_then(|last| last.not_supported.as_ref())
            .map(|not| not.error.as_str()),
    )
}

/// Which values of an item.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// From this time on: RFC 3339.
    pub from: Option<String>,
    /// Up to this time: RFC 3339.
    pub until: Option<String>,
    /// The newest so many: 1 to 100,000; 1000 if not given.
    pub limit: Option<u32>,
}

/// Values of an item, oldest first: the newest of the range.
#[utoipa::path(get, path = "/items/{item}/history", tag = "fleet",
    params(("item" = String, Path, description = "Id, a unique beginning of it, or HOST:KEY"), HistoryQuery),
    responses((status = 200, description = "What was asked for", body = Page<SampleView>), Refusal))]
pub(super) async fn history(
    State(admin): State<Admin>,
    Path(item): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Page<SampleView>>, Problem> {
    let limit = query.limit.unwrap_or(SAMPLES_DEFAULT);
    if !(1..=SAMPLES_MAX).contains(&limit) {
        return Err(Problem::invalid(
            "limit",
            format!("{limit} is not 1 to {SAMPLES_MAX}"),
        ));
    }
    let now = admin.control.clock().now();
    let second = |member: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| {
                parse_time(text, now)
                    .map(jiff::Timestamp::as_second)
                    .map_err(|e| Problem::invalid(member, e.to_string()))
            })
            .transpose()
    };
    let range = HistoryRange {
        from: second("from", &query.from)?,
        to: second("until", &query.until)?,
        limit: limit as usize,
    };
    let item = admin.control.find_item(&item).await?.item;
    let samples = admin.control.history(item.number, range).await?;
    Ok(Json(Page::whole(
        samples.iter().map(views::sample).collect(),
    )))
}
