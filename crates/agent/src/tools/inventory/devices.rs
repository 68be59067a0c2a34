//! Sections `controllers` and `usbdevices`, with names from the system's own id lists.

use std::collections::BTreeMap;

use serde_json::Value;

use super::tree::{Entry, Tree, clean};

pub(super) fn controllers(tree: Tree<'_>) -> Value {
    let lists = ["usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids"];
    let ids = lists
        .iter()
        .find_map(|path| tree.text(path))
        .unwrap_or_default();
    let ids = Ids::read(&ids);
    let slots = tree.names("sys/bus/pci/devices");
    let entries = slots.iter().filter_map(|slot| {
        let base = format!("sys/bus/pci/devices/{slot}");
        let hex = |file: &str| {
            let value = tree.value(&format!("{base}/{file}"))?;
            Some(value.trim_start_matches("0x").to_lowercase())
        };
        let (vendor, product, class) = (hex("vendor")?, hex("device")?, hex("class")?);
        let class = class.get(..4)?.to_owned();
        let kind = ids.class(&class);
        let name = ids.device(&vendor, &product).or(kind);
        let subsystem = Some(format!(
            "{}:{}",
            hex("subsystem_vendor")?,
            hex("subsystem_device")?
        ));
        let mut entry = Entry::default();
        entry
            .maybe("name", name)
            .maybe("caption", name)
            .maybe("type", kind)
            .maybe("manufacturer", ids.vendor(&vendor))
            .put("pciclass", class)
            .put("vendorid", vendor)
            .put("productid", product)
            .maybe("pcisubsystemid", subsystem.filter(|id| id != "0000:0000"))
            .put("pcislot", slot.strip_prefix("0000:").unwrap_or(slot))
            .maybe("driver", tree.link_name(&format!("{base}/driver")))
            .maybe("rev", hex("revision").filter(|revision| revision != "00"));
        Some(entry.done())
    });
    Value::Array(entries.collect())
}

pub(super) fn usb(tree: Tree<'_>) -> Value {
    let names = tree.names("sys/bus/usb/devices");
    let entries = names.iter().filter_map(|name| {
        let read = |file: &str| tree.value(&format!("sys/bus/usb/devices/{name}/{file}"));
        let (vendor, product) = (read("idVendor")?, read("idProduct")?);
        if vendor == "1d6b" {
            // Hubs that the kernel itself plays.
            return None;
        }
        let mut entry = Entry::default();
        entry
            .put("vendorid", vendor)
            .put("productid", product)
            .maybe("name", read("product"))
            .maybe("caption", read("product"))
            .maybe("manufacturer", read("manufacturer"))
            .maybe("serial", read("serial"))
            .maybe("class", read("bDeviceClass"))
            .maybe("subclass", read("bDeviceSubClass"));
        Some(entry.done())
    });
    Value::Array(entries.collect())
}

/// The list of PCI ids: vendors, their devices, and classes.
#[derive(Debug, Default)]
struct Ids<'t> {
    vendors: BTreeMap<&'t str, &'t str>,
    devices: BTreeMap<(&'t str, &'t str), &'t str>,
    classes: BTreeMap<String, &'t str>,
}

impl<'t> Ids<'t> {
    fn read(text: &'t str) -> Self {
        let mut ids = Self::default();
        let mut top = "";
        let mut in_classes = false;
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        {
            let is_sub = line.starts_with('\t');
            if line.starts_with("\t\t") {
                continue;
            }
            let Some((id, name)) = line.trim().split_once("  ") else {
                continue;
            };
            if !is_sub {
                in_classes = id.starts_with("C ");
                top = id.trim_start_matches("C ");
                if !in_classes {
                    ids.vendors.insert(top, name.trim());
                }
            } else if in_classes {
                ids.classes.insert(format!("{top}{id}"), name.trim());
            } else {
                ids.devices.insert((top, id), name.trim());
            }
        }
        ids
    }

    fn vendor(&self, vendor: &str) -> Option<String> {
        self.vendors.get(vendor).copied().and_then(clean)
    }

    fn device(&self, vendor: &str, product: &str) -> Option<&'t str> {
        self.devices.get(&(vendor, product)).copied()
    }

    fn class(&self, class: &str) -> Option<&'t str> {
        self.classes.get(class).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read() {
        let ids = Ids::read(
            "# comment\n\n1af4  Red Hat, Inc.\n\t1042  Virtio 1.0 block device\n\t\t1af4 1100  sub\n\
             8086  Intel Corporation\n\t0d57  Some bridge\nC 01  Mass storage controller\n\
             \t80  Mass storage controller\n\t08  NVM\n\t\t02  NVM Express\n",
        );
        assert_eq!(ids.vendor("1af4").as_deref(), Some("Red Hat, Inc."));
        assert_eq!(ids.device("1af4", "1042"), Some("Virtio 1.0 block device"));
        assert_eq!(ids.device("8086", "1042"), None);
        assert_eq!(ids.class("0108"), Some("NVM"));
        assert_eq!(ids.class("0200"), None);
    }
}
