//! Messages as they stand on the wire.

use super::*;

fn payload(json: &str) -> Payload {
    Payload::check(json.as_bytes().to_vec(), &Limits::default()).unwrap()
}

fn refusal(json: &str) -> String {
    payload(json).request().unwrap_err().info
}

#[test]
fn refusals_are_in_a_real_servers_words() {
    let cases = [
        (r#"{"foo":1}"#, "cannot find pair with name \"request\""),
        (r#"{"request":1}"#, "cannot find pair with name \"request\""),
        (r#"{"request":"muster"}"#, "unknown request \"muster\""),
        (
            r#"{"request":"history.push"}"#,
            "unknown request \"history.push\"",
        ),
        (
            r#"{"request":"command","scriptid":1}"#,
            "Permission denied.",
        ),
        (r#"{"request":"zabbix.stats"}"#, "Permission denied."),
        (
            r#"{"request":"active checks"}"#,
            "cannot find pair with name \"host\"",
        ),
        (
            r#"{"request":"active checks","host":"a\nb"}"#,
            "invalid host name [a\\nb]",
        ),
        (
            r#"{"request":"active checks","host":"a","ip":"x"}"#,
            "\"x\" is not a valid IP address",
        ),
        (
            r#"{"request":"sender data"}"#,
            "cannot find pair with name \"data\"",
        ),
        (
            r#"{"request":"agent data","session":"x","data":[]}"#,
            "invalid session token length 1",
        ),
        (
            r#"{"request":"proxy data","host":"p","session":"abc","history data":[{}]}"#,
            "invalid session token length 3",
        ),
        (
            r#"{"request":"sender data","tasks":[],"tasks":[]}"#,
            "cannot parse as a valid JSON object: a key occurs twice",
        ),
    ];
    for (json, info) in cases {
        assert_eq!(refusal(json), info, "{json}");
    }
    let long = format!(r#"{{"request":"{}"}}"#, "x".repeat(1000));
    assert!(refusal(&long).chars().count() < 90);
    let bare = r#"{"request":"proxy data","host":"p","session":"abc"}"#;
    assert!(payload(bare).request().is_ok());
}

#[test]
fn proxy_names() {
    assert_eq!(
        proxy_name(Some("Proxy #1_a.b-c")).unwrap(),
        "Proxy #1_a.b-c"
    );
    let cases = [
        (None, "missing name of proxy"),
        (
            Some("a/b"),
            "invalid proxy name \"a/b\": name contains invalid character '/'",
        ),
        (Some(""), "invalid proxy name \"\": name is empty"),
        (
            Some("ü"),
            "invalid proxy name \"ü\": name contains invalid character 'ü'",
        ),
    ];
    for (name, info) in cases {
        assert_eq!(proxy_name(name).unwrap_err().info, info);
    }
    assert!(proxy_name(Some(&"x".repeat(128))).is_ok());
    assert!(proxy_name(Some(&"x".repeat(129))).is_err());
}

#[test]
fn host_names() {
    for good in ["mon-a", "Zabbix server", "ümlaut", "a b (c)"] {
        assert!(host_name_is_valid(good), "{good}");
    }
    let long = "x".repeat(129);
    for bad in ["", "a\nb", "a\u{202e}b", "\u{7f}", long.as_str()] {
        assert!(!host_name_is_valid(bad), "{bad:?}");
    }
}

#[test]
fn versions() {
    let cases = [
        ("6.0.14", Some((6, 0, 14))),
        ("6.0", Some((6, 0, 0))),
        ("7.0.0rc1", Some((7, 0, 0))),
        ("5.4.0", Some((5, 4, 0))),
        ("6", None),
        ("", None),
        ("a.b", None),
        ("6.x", None),
        ("-1.0", None),
        ("99999.0", None),
    ];
    for (text, wanted) in cases {
        let found = Version::parse(text).map(|v| (v.major, v.minor, v.patch));
        assert_eq!(found, wanted, "{text}");
    }
    assert_eq!(Version::parse("6.2.9").unwrap().dialect(), Dialect::V60);
    assert_eq!(Version::parse("6.4.0").unwrap().dialect(), Dialect::V70);
}

#[test]
fn replies_are_byte_for_byte() {
    assert_eq!(
        processed_reply(3, 1, Duration::from_micros(38)),
        r#"{"response":"success","info":"processed: 3; failed: 1; total: 4; seconds spent: 0.000038"}"#
    );
    assert_eq!(
        proxy_data_reply(Upload::Enabled, true, None, &[]),
        r#"{"upload":"enabled","response":"success"}"#
    );
    assert_eq!(
        proxy_data_reply(Upload::Disabled, false, None, &[]),
        r#"{"upload":"disabled","response":"failed"}"#
    );
    assert_eq!(failed("x"), r#"{"response":"failed","info":"x"}"#);
    let long = config_refused(&"proxy \"".repeat(50), Version::parse("7.0.22"));
    assert!(long.len() < 128, "{long}");
    assert!(long.contains(r#""version":"7.0.22""#));
}

#[test]
fn active_checks_in_three_forms() {
    let items = [ActiveItem {
        key: "agent.version".into(),
        itemid: 932_004,
        delay: "5s".into(),
        lastlogsize: 0,
        mtime: 0,
    }];
    let form = |version| active_checks_reply(Version::parse(version).unwrap(), &items, 7);
    assert_eq!(
        form("4.0"),
        r#"{"response":"success","data":[{"key":"agent.version","delay":5,"lastlogsize":0,"mtime":0}]}"#
    );
    assert_eq!(
        form("6.0"),
        r#"{"response":"success","data":[{"key":"agent.version","itemid":932004,"delay":"5s","lastlogsize":0,"mtime":0}]}"#
    );
    assert_eq!(
        form("7.0.22"),
        r#"{"response":"success","config_revision":7,"data":[{"key":"agent.version","itemid":932004,"delay":"5s","lastlogsize":0,"mtime":0,"timeout":"3s"}]}"#
    );
}
