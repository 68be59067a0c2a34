//! Status, the pages for monitoring, and the codes of errors.

use super::*;

#[tokio::test(start_paused = true)]
async fn status_limits_and_pages_for_monitoring() {
    let world = World::new().await;
    world.plan().await;
    world.control.refused(
        Wire::Zabbix,
        "192.0.2.66".parse().unwrap(),
        "framing",
        "",
        "no magic",
    );
    world.control.flush_refusals().await.unwrap();
    let status = world.get("/api/v1/status").await.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["agents"]["approved"], 0);
    assert_eq!(status["reconcilers"][0]["name"], "schedule");
    assert_eq!(status["refusals"][0]["reason"], "framing");
    let limits = world.get("/api/v1/limits").await.json();
    let page_items = limits["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|l| l["name"] == "admin.page_items");
    assert_eq!(page_items.unwrap()["value"], 1000);
    let metrics = world
        .send(request("GET", "/metrics", None, Body::empty()))
        .await;
    assert!(
        metrics
            .text
            .contains("muster_refused_total{wire=\"zabbix\",reason=\"framing\"} 1"),
        "{}",
        metrics.text
    );
    assert!(metrics.text.ends_with("# EOF\n"));
    for path in ["/healthz", "/readyz"] {
        let answer = world.send(request("GET", path, None, Body::empty())).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (StatusCode::OK, "ok\n")
        );
    }
    let page = world.send(request("GET", "/", None, Body::empty())).await;
    assert_eq!(
        page.headers["content-security-policy"]
            .to_str()
            .unwrap()
            .split(';')
            .next(),
        Some("default-src 'self'")
    );
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert!(page.text.contains("<h1>Muster") && !page.text.contains("<script"));
    let document = world
        .send(request("GET", "/api/v1/openapi.json", None, Body::empty()))
        .await;
    assert_eq!(document.json()["openapi"], "3.1.0");
}

/// Every stable code of the application and the admin API stands in `docs/errors.md`, and no other.
#[test]
fn every_code_is_listed_in_the_docs() {
    let page = include_str!("../../../../../../docs/errors.md");
    let (_, ours) = page
        .split_once("## Of the admin API")
        .expect("the page has both parts");
    let listed: BTreeSet<&str> = ours
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut used = BTreeSet::new();
    for folder in ["control", "reconcile", "fronts/admin"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.extension().is_none_or(|e| e != "rs") || name.contains("test") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
            used.extend(codes_in(source));
        }
    }
    let listed: BTreeSet<String> = listed.into_iter().map(str::to_owned).collect();
    assert_eq!(used, listed);
}

/// Literals that look like a code: capitals, digits and at least one underscore, or `INTERNAL`.
fn codes_in(source: &str) -> BTreeSet<String> {
    let is_code = |text: &&str| {
        *text == "INTERNAL"
            || (text.contains('_')
                && text.starts_with(|c: char| c.is_ascii_uppercase())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'))
    };
    let ours = |text: &&str| !text.starts_with("CARGO_") && !text.starts_with("MUSTER_");
    source
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(is_code)
        .filter(ours)
        .map(str::to_owned)
        .collect()
}
