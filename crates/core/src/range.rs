//! Address ranges: `10.0.0.0/24`, `10.0.0.1-10.0.0.9`, `host`, lists by comma.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// The most addresses one range may hold: an IPv4 /12.
pub const ADDRESSES_MAX: u64 = 1 << 20;

/// One range of a discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressRange {
    /// First and last address, both included, of one family, in order.
    Span {
        /// The first.
        first: IpAddr,
        /// The last.
        last: IpAddr,
    },
    /// A name to be looked up when the work is done.
    Name(String),
}

/// A text that is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRange {
    /// The first address comes after the last.
    #[error("{0:?} runs backwards")]
    Backwards(String),
    /// IPv4 to IPv6 or the reverse.
    #[error("{0:?} mixes address families")]
    MixedFamilies(String),
    /// Neither addresses nor a host name.
    #[error("{0:?} is no range: write 10.0.0.0/24, 10.0.0.1-10.0.0.9, an address or a host name")]
    NoRange(String),
    /// More than [`ADDRESSES_MAX`].
    #[error("{0:?} holds more than 1048576 addresses")]
    TooMany(String),
}

impl AddressRange {
    /// A single address.
    pub const fn single(address: IpAddr) -> Self {
        Self::Span {
            first: address,
            last: address,
        }
    }

    /// How many addresses it holds; 1 for a name.
    pub fn len(&self) -> u64 {
        match self {
            Self::Name(_) => 1,
            Self::Span { first, last } => distance(*first, *last).saturating_add(1),
        }
    }

    /// Whether it holds none. It never does: a range that cannot be is refused when it is read.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Its addresses in order; none for a name.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, count) = match self {
            Self::Name(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            Self::Span { first, .. } => (*first, self.len()),
        };
        (0..count).map(move |n| nth(first, n))
    }

    /// Whether every address of it lies in one of `networks`. A name never does.
    pub fn within(&self, networks: &[IpNet]) -> bool {
        match self {
            Self::Name(_) => false,
            Self::Span { first, last } => networks
                .iter()
                .any(|net| net.contains(first) && net.contains(last)),
        }
    }

    /// Reads a list by comma.
    ///
    /// # Errors
    /// The first member that is no range.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, BadRange> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect()
    }
}

impl FromStr for AddressRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let text = text.trim();
        let said = || text.chars().take(80).collect::<String>();
        let span = if let Ok(address) = text.parse::<IpAddr>() {
            Some((address, address))
        } else if let Ok(network) = text.parse::<IpNet>() {
            Some((network.network(), network.broadcast()))
        } else if let Some((first, last)) = text.split_once('-')
            && let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse())
        {
            Some((first, last))
        } else {
            None
        };
        let Some((first, last)) = span else {
            return if is_host_name(text) {
                Ok(Self::Name(text.to_ascii_lowercase()))
            } else {
                Err(BadRange::NoRange(said()))
            };
        };
        if first.is_ipv4() != last.is_ipv4() {
            return Err(BadRange::MixedFamilies(said()));
        }
        if first > last {
            return Err(BadRange::Backwards(said()));
        }
        let range = Self::Span { first, last };
        if range.len() > ADDRESSES_MAX {
            Err(BadRange::TooMany(said()))
        } else {
            Ok(range)
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Span { first, last } if first == last => first.fmt(f),
            Self::Span { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// Whether a text can be a DNS name: letters, digits, `-`, `_` and dots; a label neither begins nor
/// ends with `-`; not all digits and dots.
pub fn is_host_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.trim_end_matches('.').split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
        && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn distance(first: IpAddr, last: IpAddr) -> u64 {
    match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u64::from(u32::from(b).saturating_sub(u32::from(a))),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            u64::try_from(u128::from(b).saturating_sub(u128::from(a))).unwrap_or(u64::MAX)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => u64::MAX,
    }
}

fn nth(first: IpAddr, n: u64) -> IpAddr {
    match first {
        IpAddr::V4(address) => {
            let offset = u32::try_from(n).unwrap_or(u32::MAX);
            IpAddr::V4(u32::from(address).saturating_add(offset).into())
        }
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).saturating_add(u128::from(n)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges() {
        for (text, count, shown) in [
            ("10.0.0.0/24", 256, "10.0.0.0-10.0.0.255"),
            ("10.0.0.1-10.0.0.9", 9, "10.0.0.1-10.0.0.9"),
            ("10.0.0.7", 1, "10.0.0.7"),
            (" ::1 ", 1, "::1"),
            ("fe80::/120", 256, "fe80::-fe80::ff"),
            ("Switch-1.lab", 1, "switch-1.lab"),
        ] {
            let range: AddressRange = text.parse().expect(text);
            assert_eq!((range.len(), range.to_string().as_str()), (count, shown));
        }
        let list = AddressRange::parse_list("127.0.0.1, 10.0.0.0/30").expect("a list");
        assert_eq!(list.iter().flat_map(AddressRange::addresses).count(), 5);
    }

    #[test]
    fn refused_ranges() {
        for text in [
            "",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-::1",
            "10.0.0.0/8",
            "::/0",
            "10.0.0",
            "-x",
            "a b",
            "10.0.0.0/33",
            "x-.lab",
        ] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn within_listed_networks() {
        let nets: Vec<IpNet> = vec!["127.0.0.0/8".parse().expect("a net")];
        assert!(
            "127.0.0.1-127.0.0.5"
                .parse::<AddressRange>()
                .expect("a range")
                .within(&nets)
        );
        assert!(
            !"126.255.255.255-127.0.0.1"
                .parse::<AddressRange>()
                .expect("a range")
                .within(&nets)
        );
        assert!(
            !"localhost"
                .parse::<AddressRange>()
                .expect("a range")
                .within(&nets)
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(a: u32, n in 0u32..5000) {
            let first = IpAddr::V4(a.into());
            let last = IpAddr::V4(a.saturating_add(n).into());
            let range = AddressRange::Span { first, last };
            let back: AddressRange = range.to_string().parse().expect("reads back");
            prop_assert_eq!(&back, &range);
            prop_assert_eq!(range.addresses().last(), Some(last));
        }
    }
}
