//! The zabbix protocol.
