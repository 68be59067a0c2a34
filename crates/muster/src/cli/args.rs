//! The command tree: every noun, verb and flag that scripts hold on to.
//!
//! Only names and shapes live here; what a command does is in `cmd/`, and in `up.rs`,
//! `server_run.rs` and `agent_run.rs` for the long-running ones.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "doc comments here are the help texts, where brackets mean what may be left out"
)]

use std::path::PathBuf;

use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};

use super::parse::{Moment, Period};

/// One fleet over four protocols: control plane and agent in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    about,
    long_about = None,
    subcommand_required = true,
    arg_required_else_help = false,
    disable_help_subcommand = true,
    propagate_version = false,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The flags every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Global {
    /// How to print data: table on a terminal, json elsewhere, unless named here
    #[arg(short = 'o', long = "output", value_name = "FORMAT", global = true)]
    pub(crate) output: Option<Format>,
    /// State folder
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        env = "MUSTER_STATE",
        hide_env_values = true
    )]
    pub(crate) state: Option<PathBuf>,
    /// Admin API of the server; found in the state folder if not given
    #[arg(
        long,
        value_name = "URL",
        global = true,
        env = "MUSTER_URL",
        hide_env_values = true
    )]
    pub(crate) url: Option<String>,
    /// File with the token for the admin API (else MUSTER_TOKEN, else STATE/admin.token)
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// Say nothing but data and errors
    #[arg(short = 'q', long, global = true)]
    pub(crate) quiet: bool,
    /// Say more; repeat for still more
    #[arg(short = 'v', long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Never ask; what would be asked is an error
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
}

/// Output formats of `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
    /// One YAML document.
    Yaml,
}

/// The nouns, and the verbs of every day.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start server and local agent in one process and do the first real work
    Up(UpArgs),
    /// The server alone
    #[command(subcommand)]
    Server(ServerCommand),
    /// Run an agent, or look after the agents of a server
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Work to be done
    #[command(subcommand)]
    Task(TaskCommand),
    /// Single executions of tasks
    #[command(subcommand)]
    Run(RunCommand),
    /// Machines that are known
    #[command(subcommand)]
    Host(HostCommand),
    /// What is sampled, and its values
    #[command(subcommand)]
    Item(ItemCommand),
    /// Kinds of work
    #[command(subcommand)]
    Kind(KindCommand),
    /// What the server is doing
    Status,
    /// Why something happened, or did not
    Explain(ExplainArgs),
    /// Look for what is wrong on this machine
    Doctor,
    /// Print the inventory of this machine; needs no server
    Inventory,
    /// Look for devices in a range, once, from here; needs no server
    Discover(DiscoverArgs),
    /// Measure once, from here; needs no server
    Measure(MeasureArgs),
    /// Send one value as zabbix_sender does
    Send(SendArgs),
    /// Say hello to whatever listens at an address and tell what it is
    Probe(ProbeArgs),
    /// Show what bytes of a wire mean
    Decode(DecodeArgs),
    /// Put load on a server and measure
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print completions for a shell
    Completions(CompletionsArgs),
}

/// `muster up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// End when the first work has ended
    #[arg(long)]
    pub(crate) once: bool,
    /// Also look for devices here: 10.0.0.0/24, 10.0.0.1-10.0.0.9, a host, or a list
    #[arg(long, value_name = "RANGE", value_delimiter = ',')]
    pub(crate) discover: Vec<String>,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

/// Where the configuration comes from, and every key of it as a flag and a variable.
///
/// A flag wins over the variable, the variable over the file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct ConfigArgs {
    /// Configuration file (else STATE/muster.toml if there is one)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Plain HTTP: address:port or off
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MUSTER_LISTEN_HTTP",
        hide_env_values = true
    )]
    pub(crate) listen_http: Option<String>,
    /// HTTPS: address:port or off
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MUSTER_LISTEN_HTTPS",
        hide_env_values = true
    )]
    pub(crate) listen_https: Option<String>,
    /// Plain teeth lines: address:port or off
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MUSTER_LISTEN_TEETH",
        hide_env_values = true
    )]
    pub(crate) listen_teeth: Option<String>,
    /// Teeth over TLS: address:port or off
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MUSTER_LISTEN_TEETHS",
        hide_env_values = true
    )]
    pub(crate) listen_teeths: Option<String>,
    /// Zabbix: address:port or off
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MUSTER_LISTEN_ZABBIX",
        hide_env_values = true
    )]
    pub(crate) listen_zabbix: Option<String>,
    /// Let plain listeners have other than loopback addresses
    #[arg(long, value_name = "BOOL", env = "MUSTER_LISTEN_INSECURE", hide_env_values = true,
          num_args = 0..=1, default_missing_value = "true")]
    pub(crate) listen_insecure: Option<bool>,
    /// PostgreSQL instead of STATE/muster.db
    #[arg(
        long,
        value_name = "URL",
        env = "MUSTER_DATABASE_URL",
        hide_env_values = true
    )]
    pub(crate) database_url: Option<String>,
    /// Who may enrol without a key: approve, loopback or key
    #[arg(
        long,
        value_name = "POLICY",
        env = "MUSTER_ENROL_POLICY",
        hide_env_values = true
    )]
    pub(crate) enrol_policy: Option<String>,
    /// Networks treated as loopback is when enrolling
    #[arg(
        long,
        value_name = "NETWORKS",
        value_delimiter = ',',
        env = "MUSTER_ENROL_ADDRESSES",
        hide_env_values = true
    )]
    pub(crate) enrol_addresses: Option<Vec<String>>,
    /// Next contact of a pulling agent with nothing due
    #[arg(
        long,
        value_name = "DUR",
        env = "MUSTER_FUSION_CONTACT_INTERVAL",
        hide_env_values = true
    )]
    pub(crate) fusion_contact_interval: Option<String>,
    /// What to do with a silent teeth agent: close or keepalive
    #[arg(
        long,
        value_name = "WORD",
        env = "MUSTER_TEETH_IDLE_WITHOUT_PING",
        hide_env_values = true
    )]
    pub(crate) teeth_idle_without_ping: Option<String>,
    /// The REST bridge to teeth agents
    #[arg(long, value_name = "BOOL", env = "MUSTER_TEETH_BRIDGE", hide_env_values = true,
          num_args = 0..=1, default_missing_value = "true")]
    pub(crate) teeth_bridge: Option<bool>,
    /// Take pScheduler posts from everyone
    #[arg(long, value_name = "BOOL", env = "MUSTER_PSCHEDULER_OPEN", hide_env_values = true,
          num_args = 0..=1, default_missing_value = "true")]
    pub(crate) pscheduler_open: Option<bool>,
    /// Networks the server may dial for URLs that peers name
    #[arg(
        long,
        value_name = "NETWORKS",
        value_delimiter = ',',
        env = "MUSTER_EGRESS_ALLOW",
        hide_env_values = true
    )]
    pub(crate) egress_allow: Option<Vec<String>>,
    /// Networks without the per-address limits
    #[arg(
        long,
        value_name = "NETWORKS",
        value_delimiter = ',',
        env = "MUSTER_LIMITS_EXEMPT",
        hide_env_values = true
    )]
    pub(crate) limits_exempt: Option<Vec<String>>,
    /// How long ended runs are kept, with tasks that are done: a day or more, or off
    #[arg(
        long,
        value_name = "DUR",
        env = "MUSTER_RETAIN_RUNS",
        hide_env_values = true
    )]
    pub(crate) retain_runs: Option<String>,
    /// How long values are kept: a day or more, or off
    #[arg(
        long,
        value_name = "DUR",
        env = "MUSTER_RETAIN_VALUES",
        hide_env_values = true
    )]
    pub(crate) retain_values: Option<String>,
    /// Keys of Zabbix peers, each IDENTITY=FILE with the key in hex; needs the feature `psk`
    #[arg(
        long,
        value_name = "KEYS",
        value_delimiter = ',',
        env = "MUSTER_ZABBIX_PSK",
        hide_env_values = true
    )]
    pub(crate) zabbix_psk: Option<Vec<String>>,
}

/// `muster server`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Run the server until a signal ends it
    Run(ConfigArgs),
    /// Check configuration and database, change nothing
    Check(ConfigArgs),
    /// Bring the database schema up to date
    Migrate(ConfigArgs),
}

/// `muster agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Run an agent until a signal ends it
    Run(AgentRunArgs),
    /// List the agents a server knows
    List,
    /// Show one agent
    Show(AgentName),
    /// Approve agents that are pending or disabled
    Approve(AgentNames),
    /// Give agents nothing to do and take nothing from them
    Disable(AgentNames),
    /// Forget agents
    Remove(AgentNames),
    /// Enrolment keys
    #[command(subcommand)]
    Key(KeyCommand),
}

/// `muster agent run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentRunArgs {
    /// Server to work for: http(s)://, teeth(s):// or zabbix://; may be repeated
    #[arg(long, value_name = "URL", required = true)]
    pub(crate) server: Vec<String>,
    /// Use only the servers of these wires
    #[arg(long, value_name = "WIRES", value_delimiter = ',')]
    pub(crate) wire: Vec<WireName>,
    /// Enrolment key, or @FILE that holds it
    #[arg(long, value_name = "K")]
    pub(crate) enrol_key: Option<String>,
    /// SHA-256 of the server's certificate in hex, in place of a CA
    #[arg(long, value_name = "SHA256")]
    pub(crate) pin: Option<String>,
    #[command(flatten)]
    pub(crate) config: AgentConfigArgs,
}

/// Where the agent's configuration comes from; a flag wins as in [`ConfigArgs`].
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct AgentConfigArgs {
    /// Configuration file (else STATE/muster.toml if there is one)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Let plain http go to other machines; such a server may only observe, scan and measure
    #[arg(long, value_name = "BOOL", env = "MUSTER_AGENT_INSECURE", hide_env_values = true,
          num_args = 0..=1, default_missing_value = "true")]
    pub(crate) agent_insecure: Option<bool>,
}

/// The wires by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WireName {
    /// FusionInventory and GLPI over HTTP.
    Fusion,
    /// pScheduler REST.
    Pscheduler,
    /// JSON lines over TCP or TLS.
    Teeth,
    /// Zabbix server, proxy and agent.
    Zabbix,
}

/// One agent.
#[derive(Debug, Args)]
pub(crate) struct AgentName {
    /// Name, id, or unique beginning of an id
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Some agents.
#[derive(Debug, Args)]
pub(crate) struct AgentNames {
    /// Names, ids, or unique beginnings of ids
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

/// `muster agent key`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; it is shown this once
    Create(KeyCreateArgs),
}

/// `muster agent key create`.
#[derive(Debug, Args)]
pub(crate) struct KeyCreateArgs {
    /// The key enrols one agent
    #[arg(long)]
    pub(crate) once: bool,
    /// How long the key enrols
    #[arg(long, value_name = "DUR")]
    pub(crate) expires: Option<Period>,
    /// What the key is for
    #[arg(long, value_name = "L")]
    pub(crate) label: Option<String>,
}

/// `muster task`.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Create a task
    Create(Box<TaskCreateArgs>),
    /// List tasks
    List(TaskListArgs),
    /// Show one task
    Show(IdArg),
    /// Cancel a task and the runs of it that have not ended
    Cancel(IdArg),
}

/// `muster task create`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").args(["agent", "any"]))]
pub(crate) struct TaskCreateArgs {
    /// Kind of work; `muster kind list` shows all
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// The agent that does it, by name or id
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// Any agent that can
    #[arg(long)]
    pub(crate) any: bool,
    /// What to do it to; may be repeated
    #[arg(long, value_name = "T")]
    pub(crate) target: Vec<String>,
    /// v1:COMMUNITY, v2c:COMMUNITY[@PORT] or v3:USER,AUTHPROTO,AUTHPASS[,PRIVPROTO,PRIVPASS][@PORT]
    #[arg(long, value_name = "SPEC")]
    pub(crate) credential: Vec<String>,
    /// Targets worked on at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) workers: Option<u32>,
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    /// What the kind wants to know, as JSON or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) spec: Option<String>,
    /// Wait for the first run to end and print it
    #[arg(long)]
    pub(crate) wait: bool,
    /// Stop waiting after this long (exit 124)
    #[arg(long, value_name = "DUR", requires = "wait")]
    pub(crate) timeout: Option<Period>,
}

/// When a task runs.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Schedule")]
pub(crate) struct ScheduleArgs {
    /// First start: ISO 8601, or +DUR from the present
    #[arg(long, value_name = "TIME")]
    pub(crate) start: Option<Moment>,
    /// How late a run may start
    #[arg(long, value_name = "DUR")]
    pub(crate) slip: Option<Period>,
    /// Again after this long
    #[arg(long, value_name = "DUR", conflicts_with = "repeat_cron")]
    pub(crate) repeat: Option<Period>,
    /// Again whenever this cron expression says
    #[arg(long, value_name = "EXPR")]
    pub(crate) repeat_cron: Option<String>,
    /// No run after this
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// No more runs than this
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_runs: Option<u32>,
}

/// `muster task list`.
#[derive(Debug, Args)]
pub(crate) struct TaskListArgs {
    /// Only tasks of this kind
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
}

/// One object by id.
#[derive(Debug, Args)]
pub(crate) struct IdArg {
    /// Id, or a unique beginning of it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `muster run`.
#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// List runs in the order they were planned
    List(RunListArgs),
    /// Show one run
    Show(IdArg),
    /// Follow a run until it ends
    Watch(RunWatchArgs),
    /// Print what a run brought
    Result(RunResultArgs),
}

/// `muster run list`.
///
/// The surface has `run list --state S` beside the common `--state DIR`. [`super::run_list_state`]
/// tells them apart before clap sees them: a word for a state of a run is the filter.
#[derive(Debug, Args)]
pub(crate) struct RunListArgs {
    /// Only runs of this task
    #[arg(long, value_name = "T")]
    pub(crate) task: Option<String>,
    /// Only runs in this state; `--state S` means the same here when S is the word of a state
    #[arg(long, value_name = "S")]
    pub(crate) in_state: Option<RunStateWord>,
}

/// States of a run, as words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RunStateWord {
    /// Participants have not agreed yet.
    Proposed,
    /// Has a window.
    Planned,
    /// An agent was given it.
    Offered,
    /// The agent has begun.
    Running,
    /// Other participants' parts are awaited.
    Collecting,
    /// Silent past its window.
    Overdue,
    /// Over.
    Ended,
}

/// `muster run watch`.
#[derive(Debug, Args)]
pub(crate) struct RunWatchArgs {
    /// Id, or a unique beginning of it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Stop watching after this long (exit 124)
    #[arg(long, value_name = "DUR")]
    pub(crate) timeout: Option<Period>,
}

/// `muster run result`.
#[derive(Debug, Args)]
pub(crate) struct RunResultArgs {
    /// Id, or a unique beginning of it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Form of the result
    #[arg(long, value_name = "FORM", default_value = "json")]
    pub(crate) format: ResultForm,
}

/// Forms of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResultForm {
    /// As data.
    Json,
    /// For a terminal.
    Text,
    /// For a page.
    Html,
}

/// `muster host`.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Declare a host to be monitored
    Create(HostCreateArgs),
    /// List hosts
    List,
    /// Show one host
    Show(HostName),
}

/// One host.
#[derive(Debug, Args)]
pub(crate) struct HostName {
    /// Name, id, or unique beginning of an id
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// `muster host create`.
#[derive(Debug, Args)]
pub(crate) struct HostCreateArgs {
    /// Name of the host, as its Zabbix agent or its proxy says it
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Proxy that monitors it; without one this server does
    #[arg(long, value_name = "NAME")]
    pub(crate) proxy: Option<String>,
    /// Address of its Zabbix agent
    #[arg(long, value_name = "HOST")]
    pub(crate) address: Option<String>,
    /// Port of its Zabbix agent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
}

/// `muster item`.
#[derive(Debug, Subcommand)]
pub(crate) enum ItemCommand {
    /// Declare an item of a host
    Create(ItemCreateArgs),
    /// List items
    List(ItemListArgs),
    /// Show one item
    Get(ItemRef),
    /// Print the values of an item, oldest first
    History(ItemHistoryArgs),
}

/// `muster item create`.
#[derive(Debug, Args)]
pub(crate) struct ItemCreateArgs {
    /// Host it belongs to, by name or id
    #[arg(long, value_name = "H")]
    pub(crate) host: String,
    /// Key, as the agent knows it
    #[arg(long, value_name = "K")]
    pub(crate) key: String,
    /// How it is collected: agent, agent_active, trapper, simple, snmp, http, dependent, internal, external or script
    #[arg(long = "type", value_name = "T")]
    pub(crate) item_type: String,
    /// What it holds: float, unsigned, string, log or text
    #[arg(long, value_name = "V")]
    pub(crate) value_type: String,
    /// How often it is collected
    #[arg(long, value_name = "D")]
    pub(crate) delay: Option<Period>,
    /// Unit of the values
    #[arg(long, value_name = "U")]
    pub(crate) unit: Option<String>,
    /// Name for people; the key if not given
    #[arg(long, value_name = "N")]
    pub(crate) name: Option<String>,
}

/// `muster item list`.
#[derive(Debug, Args)]
pub(crate) struct ItemListArgs {
    /// Only items of this host, by name or id
    #[arg(long, value_name = "H")]
    pub(crate) host: Option<String>,
}

/// One item, by id or by host and key.
#[derive(Debug, Args)]
pub(crate) struct ItemRef {
    /// Id or a unique beginning of it, HOST:KEY, or a key (with --host where several hosts have it)
    #[arg(value_name = "ITEM", required_unless_present = "key")]
    pub(crate) item: Option<String>,
    /// With a second word the first is the host, and this the key of the item
    #[arg(value_name = "KEY", conflicts_with_all = ["host", "key"])]
    pub(crate) key_of_host: Option<String>,
    /// Host of the item, by name or id
    #[arg(long, value_name = "H")]
    pub(crate) host: Option<String>,
    /// Key of the item
    #[arg(long, value_name = "K", conflicts_with = "item")]
    pub(crate) key: Option<String>,
}

/// `muster item history`.
#[derive(Debug, Args)]
pub(crate) struct ItemHistoryArgs {
    #[command(flatten)]
    pub(crate) item: ItemRef,
    /// No values before this
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<Moment>,
    /// No values after this
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// At most the newest N of the range
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
}

/// `muster kind`.
#[derive(Debug, Subcommand)]
pub(crate) enum KindCommand {
    /// List all kinds of work and the agents that can do each
    List,
}

/// `muster explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// What kind of thing
    #[arg(value_name = "NOUN")]
    pub(crate) noun: Noun,
    /// Id or a unique beginning of it; an agent or host by name too
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// What can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Noun {
    /// An agent.
    Agent,
    /// A task.
    Task,
    /// A run.
    Run,
    /// A host.
    Host,
    /// An item.
    Item,
}

/// `muster discover`.
#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    /// 10.0.0.0/24, 10.0.0.1-10.0.0.9, a host, or a list by comma
    #[arg(value_name = "RANGE", value_delimiter = ',', required = true)]
    pub(crate) range: Vec<String>,
    /// SNMP credential, as for `task create`; may be repeated
    #[arg(long, value_name = "SPEC")]
    pub(crate) credential: Vec<String>,
    /// Addresses worked on at a time
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) workers: u32,
    /// Wait this long for an answer
    #[arg(long, value_name = "DUR")]
    pub(crate) timeout: Option<Period>,
}

/// `muster measure`.
#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    /// Kind of measurement: rtt, clock, idle or noop
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Towards what, for kinds that have a destination
    #[arg(value_name = "DEST")]
    pub(crate) dest: Option<String>,
    /// What else the kind wants to know, as JSON or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) spec: Option<String>,
}

/// `muster send`.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// Host the value belongs to
    #[arg(long, value_name = "H")]
    pub(crate) host: String,
    /// Key of the item
    #[arg(long, value_name = "K")]
    pub(crate) key: String,
    /// The value
    #[arg(long, value_name = "V", allow_hyphen_values = true)]
    pub(crate) value: String,
    /// Where to send it; the Zabbix listener of the state folder if not given
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
}

/// `muster probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Wire to speak
    #[arg(value_name = "WIRE")]
    pub(crate) wire: WireName,
    /// HOST[:PORT] or a URL
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: String,
}

/// `muster decode`.
#[derive(Debug, Args)]
pub(crate) struct DecodeArgs {
    /// Wire the bytes belong to
    #[arg(value_name = "WIRE")]
    pub(crate) wire: WireName,
    /// File with the bytes; standard input if not given
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// `muster bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Values acknowledged and durable a second
    Zabbix(crate::bench::zabbix::Args),
    /// Contacts of agents a second
    Fusion(crate::bench::fusion::Args),
    /// Idle lines, and the bytes of memory each costs
    Teeth(crate::bench::teeth::Args),
    /// Tasks posted a second, and how late runs start
    Pscheduler(crate::bench::pscheduler::Args),
}

/// `muster completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell to complete for
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}
