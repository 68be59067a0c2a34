//! Section `softwares`, from the package database of dpkg.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::tree::{Entry, Tree, assignment, clean};

pub(super) fn softwares(tree: Tree<'_>, zone: &TimeZone) -> Value {
    let status = tree.text("var/lib/dpkg/status").unwrap_or_default();
    let origin = tree.text("etc/dpkg/origins/default").unwrap_or_default();
    let vendor = origin
        .lines()
        .find_map(|line| clean(line.strip_prefix("Vendor:")?))
        .or_else(|| assignment(&tree.text("etc/os-release")?, "NAME"));
    let entries = status.split("\n\n").filter_map(|paragraph| {
        let package = Package::read(paragraph)?;
        let mut entry = Entry::default();
        entry
            .put("name", package.name)
            .maybe("version", package.version)
            .maybe("arch", package.arch)
            .put("from", "deb")
            .maybe("publisher", vendor.clone())
            .maybe("filesize", package.kilobytes.map(|size| size * 1024))
            .maybe("system_category", package.section)
            .maybe("install_date", installed(tree, &package, zone))
            .maybe("comments", package.summary);
        Some(entry.done())
    });
    Value::Array(entries.collect())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Package<'t> {
    name: &'t str,
    version: Option<&'t str>,
    arch: Option<&'t str>,
    section: Option<&'t str>,
    summary: Option<String>,
    kilobytes: Option<i64>,
}

impl<'t> Package<'t> {
    /// One paragraph of the status file; `None` unless the package is installed.
    fn read(paragraph: &'t str) -> Option<Self> {
        let mut package = Package::default();
        let mut is_installed = false;
        for line in paragraph
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']))
        {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match name {
                "Package" => package.name = value,
                "Status" => is_installed = value.ends_with(" ok installed"),
                "Version" => package.version = Some(value),
                "Architecture" => package.arch = Some(value),
                "Section" => package.section = Some(value),
                "Description" => package.summary = clean(value),
                "Installed-Size" => package.kilobytes = value.parse().ok(),
                _ => {}
            }
        }
        (is_installed && !package.name.is_empty()).then_some(package)
    }
}

/// The day the list of the package's files was last written.
fn installed(tree: Tree<'_>, package: &Package<'_>, zone: &TimeZone) -> Option<String> {
    let with_arch = format!("{}:{}", package.name, package.arch.unwrap_or_default());
    let written = [package.name, &with_arch].iter().find_map(|name| {
        std::fs::metadata(tree.path(&format!("var/lib/dpkg/info/{name}.list")))
            .ok()?
            .modified()
            .ok()
    })?;
    let time = Timestamp::try_from(written).ok()?;
    Some(time.to_zoned(zone.clone()).strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_what_is_installed() {
        let text = "Package: adduser\nStatus: install ok installed\nInstalled-Size: 686\n\
            Version: 3.134\nArchitecture: all\nSection: admin\nDescription: add and remove users\n \
            long text: with colon\nConffiles:\n /etc/x 0123";
        let package = Package::read(text).unwrap();
        assert_eq!((package.name, package.version), ("adduser", Some("3.134")));
        assert_eq!(package.kilobytes, Some(686));
        assert_eq!(package.summary.as_deref(), Some("add and remove users"));
        for gone in [
            "Package: a\nStatus: deinstall ok config-files",
            "Package: a\nStatus: install ok half-installed",
            "Package: a",
            "Status: install ok installed",
            "",
        ] {
            assert_eq!(Package::read(gone), None, "{gone}");
        }
        assert!(Package::read("Package: a\nStatus: hold ok installed").is_some());
    }
}
