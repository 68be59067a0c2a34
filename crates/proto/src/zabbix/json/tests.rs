//! JSON of the wire: what is read, refused, and measured.

use super::*;

fn text(payload: &[u8]) -> Result<Checked, JsonError> {
    check(payload.to_vec(), &JsonLimits::default())
}

#[test]
fn accepts_what_serde_json_accepts() {
    let good: &[&str] = &[
        "{}",
        " { } \r\n ",
        r#"{"a":1,"b":[],"c":{},"d":[1,-2,3.5,1e5,1E-5,0,0.0,true,false,null,"x"]}"#,
        r#"{"a":"\"\\\/\b\f\n\r\t\u00fc\ud83d\ude00"}"#,
        r#"{"a":{"a":{"a":1}},"b":{"a":2}}"#,
        r#"{"":""}"#,
    ];
    for json in good {
        assert_eq!(text(json.as_bytes()).unwrap().text(), *json);
        serde_json::from_str::<serde_json::Value>(json).unwrap();
    }
}

#[test]
fn refuses_what_is_not_json() {
    let bad: &[&[u8]] = &[
        b"",
        b"[1]",
        b"1",
        b"null",
        b"{",
        b"{\"request\":",
        b"{\"a\"}",
        b"{\"a\" 1}",
        b"{\"a\":1,}",
        b"{,\"a\":1}",
        b"{\"a\":1 \"b\":2}",
        b"{\"a\":[1,]}",
        b"{\"a\":[1 2]}",
        b"{\"a\":[1}",
        b"{\"a\":01}",
        b"{\"a\":1.}",
        b"{\"a\":.5}",
        b"{\"a\":-}",
        b"{\"a\":1e}",
        b"{\"a\":+1}",
        b"{\"a\":NaN}",
        b"{\"a\":Infinity}",
        b"{\"a\":-Infinity}",
        b"{\"a\":tru}",
        b"{\"a\":\"\x01\"}",
        b"{\"a\":\"\\x\"}",
        b"{\"a\":\"\\u12g4\"}",
        b"{\"a\":\"\\u12\"}",
        b"{\"a\":\"x}",
        b"{'a':1}",
        b"{}{}",
        b"{} x",
        b"\xef\xbb\xbf{}",
    ];
    for json in bad {
        assert!(text(json).is_err(), "{}", String::from_utf8_lossy(json));
        assert!(serde_json::from_slice::<serde_json::Map<_, _>>(json).is_err());
    }
}

#[test]
fn a_counted_terminator_is_not_part_of_the_text() {
    assert_eq!(text(b"{\"a\":1}\0").unwrap().text(), "{\"a\":1}");
    assert!(text(b"{\"a\":1}\0x").is_err());
}

#[test]
fn limits_hold() {
    let nested = |depth: usize| {
        let array = depth - 1;
        format!("{{\"a\":{}{}}}", "[".repeat(array), "]".repeat(array))
    };
    assert!(text(nested(64).as_bytes()).is_ok());
    assert_eq!(
        text(nested(65).as_bytes()),
        Err(JsonError::Depth { limit: 64 })
    );
    assert_eq!(
        text(nested(100_000).as_bytes()),
        Err(JsonError::Depth { limit: 64 })
    );
    let number = |digits: usize| format!("{{\"a\":{}}}", "9".repeat(digits));
    assert!(text(number(64).as_bytes()).is_ok());
    assert_eq!(text(number(65).as_bytes()), Err(JsonError::Number));
    assert!(text(b"{\"a\":1e400}").is_ok());
    assert_eq!(text(b"{\"a\":1e401}"), Err(JsonError::Number));
    assert_eq!(text(b"{\"a\":1e-99999999999}"), Err(JsonError::Number));
    let small = JsonLimits {
        object_keys_max: 3,
        array_items_max: 3,
        string_bytes_max: 3,
        ..JsonLimits::default()
    };
    let with = |json: &str| check(json.as_bytes().to_vec(), &small);
    assert!(with(r#"{"a":1,"b":2,"c":3}"#).is_ok());
    assert_eq!(
        with(r#"{"a":1,"b":2,"c":3,"d":4}"#),
        Err(JsonError::Keys { limit: 3 })
    );
    assert!(with(r#"{"a":[1,2,3]}"#).is_ok());
    assert_eq!(
        with(r#"{"a":[1,2,3,4]}"#),
        Err(JsonError::Items { limit: 3 })
    );
    assert_eq!(
        with(r#"{"a":"long"}"#),
        Err(JsonError::StringTooLong { limit: 3 })
    );
    let value = with(r#"{"a":{"value":"long"}}"#);
    assert_eq!(
        value,
        Err(JsonError::StringTooLong { limit: 3 }),
        "the key is long"
    );
    let four = JsonLimits {
        string_bytes_max: 5,
        ..small
    };
    assert!(check(br#"{"a":{"value":"longer than it"}}"#.to_vec(), &four).is_ok());
}

#[test]
fn duplicate_keys_are_refused_however_they_are_written() {
    let many: Vec<String> = (0..100).map(|n| format!("\"k{n}\":0")).collect();
    let many = many.join(",");
    let cases = [
        r#"{"a":1,"a":2}"#.to_owned(),
        r#"{"x":{"a":1,"b":2,"a":3}}"#.to_owned(),
        r#"{"request":"a","re\u0071uest":"b"}"#.to_owned(),
        r#"{"a":[{"k":1},{"k":1,"k":1}]}"#.to_owned(),
        format!("{{{many},\"k0\":1}}"),
        format!("{{{many},\"k99\":1}}"),
        r#"{"tasks":[],"tasks":1}"#.to_owned(),
        r#"{"x":{"tasks":[],"tasks":[]}}"#.to_owned(),
    ];
    for json in cases {
        let refused = text(json.as_bytes()).unwrap_err();
        assert!(
            matches!(refused, JsonError::DuplicateKey { .. }),
            "{json}: {refused}"
        );
    }
    assert!(text(format!("{{{many}}}").as_bytes()).is_ok());
    let twice = text(br#"{"request":"proxy data","tasks":[1],"tasks":[2]}"#).unwrap();
    assert!(twice.repeated_sections());
}

#[test]
fn broken_unicode_is_mended_in_a_value_only() {
    let mended: &[(&[u8], &str)] = &[
        (b"{\"value\":\"a\\ud800b\"}", "{\"value\":\"a\u{fffd}b\"}"),
        (
            b"{\"value\":\"\\udc00\\ud83d\\ude00\\\"\"}",
            "{\"value\":\"\u{fffd}\\ud83d\\ude00\\\"\"}",
        ),
        (
            b"{\"value\":\"\\ud800\\u0041\\ud800\"}",
            "{\"value\":\"\u{fffd}\\u0041\u{fffd}\"}",
        ),
        (
            b"{\"value\":\"x\xff\\ny\xfe\"}",
            "{\"value\":\"x\u{fffd}\\ny\u{fffd}\"}",
        ),
        (
            b"{\"value\":\"\xff\\ud800\xff\"}",
            "{\"value\":\"\u{fffd}\u{fffd}\u{fffd}\"}",
        ),
    ];
    for (bytes, wanted) in mended {
        let checked = text(bytes).unwrap();
        assert_eq!(checked.text(), *wanted);
        assert!(checked.replaced());
        serde_json::from_str::<serde_json::Value>(checked.text()).unwrap();
    }
    let refused: &[&[u8]] = &[
        b"{\"host\":\"a\\ud800b\"}",
        b"{\"host\":\"a\xffb\"}",
        b"{\"\xff\":1}",
        b"{\"\\ud800\":1}",
        b"{\"a\":\xff}",
    ];
    for bytes in refused {
        assert!(text(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn nul_is_for_values_only() {
    assert!(text(br#"{"value":"a\u0000b"}"#).is_ok());
    assert_eq!(text(br#"{"host":"a\u0000b"}"#), Err(JsonError::Nul));
    assert_eq!(text(br#"{"a\u0000b":1}"#), Err(JsonError::Nul));
}

#[test]
fn a_bare_number_as_value_is_its_text() {
    let checked = text(br#"{"data":[{"value":1.50},{"value":-18446744073709551616}]}"#).unwrap();
    let wanted = r#"{"data":[{"value":"1.50"},{"value":"-18446744073709551616"}]}"#;
    assert_eq!(checked.text(), wanted);
    assert!(!checked.replaced());
}

#[test]
fn numbers_are_read_by_text() {
    let cases: &[(&str, Num)] = &[
        ("1", Num::Unsigned(1)),
        ("\"1\"", Num::Unsigned(1)),
        ("\"007\"", Num::Unsigned(7)),
        ("18446744073709551615", Num::Unsigned(u64::MAX)),
        ("\"18446744073709551615\"", Num::Unsigned(u64::MAX)),
        ("18446744073709551616", Num::Bad),
        ("\"18446744073709551616\"", Num::Bad),
        ("-1", Num::Negative(-1)),
        ("\"-1\"", Num::Negative(-1)),
        ("null", Num::Absent),
        ("\"\"", Num::Bad),
        ("\"-\"", Num::Bad),
        ("\"+1\"", Num::Bad),
        ("\" 1\"", Num::Bad),
        ("1.5", Num::Bad),
        ("true", Num::Bad),
        ("[1,[2]]", Num::Bad),
        ("{\"a\":{}}", Num::Bad),
    ];
    for (json, wanted) in cases {
        assert_eq!(
            serde_json::from_str::<Num>(json).unwrap(),
            *wanted,
            "{json}"
        );
    }
}

#[test]
fn excerpts_are_short_and_harmless() {
    assert_eq!(excerpt(b"a\"b\nc\x1b[1m\xff"), "a\"b\\nc\\u{1b}[1m\u{fffd}");
    assert_eq!(excerpt(&[b'x'; 1000]).chars().count(), 65);
}
