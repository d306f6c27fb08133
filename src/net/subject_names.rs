//! The names in a certificate of our own making, read back when it is renewed.
//!
//! Finds one extension of a certificate this machine trusts already; it judges nothing, and is no parser for strangers'
//! certificates.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// The extension's identifier, 2.5.29.17, as it stands in a certificate. [RFC 5280 §4.2.1.6]
const SUBJECT_ALTERNATIVE_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x1D, 0x11];
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// The host names and addresses the first certificate in `pem_file` is for; `None` if they cannot be found.
pub fn in_file(pem_file: &Path) -> Option<Vec<String>> {
    subject_names(&CertificateDer::from_pem_file(pem_file).ok()?)
}

/// The host names and addresses the certificate is for, in its order; `None` if they cannot be found.
fn subject_names(certificate: &[u8]) -> Option<Vec<String>> {
    let id = SUBJECT_ALTERNATIVE_NAME;
    let at = certificate.windows(id.len()).position(|bytes| bytes == id)?;
    let mut rest = &certificate[at + id.len()..];
    let (mut tag, mut body) = element(&mut rest)?;
    if tag == BOOLEAN {
        // Whether it is critical.
        (tag, body) = element(&mut rest)?;
    }
    let mut wrapped = Some(body).filter(|_| tag == OCTET_STRING)?;
    let (tag, body) = element(&mut wrapped)?;
    let mut list = Some(body).filter(|_| tag == SEQUENCE)?;
    let mut names = Vec::new();
    while !list.is_empty() {
        names.extend(name(element(&mut list)?));
    }
    Some(names)
}

fn name((tag, value): (u8, &[u8])) -> Option<String> {
    match tag {
        DNS_NAME => str::from_utf8(value).ok().map(str::to_owned),
        IP_ADDRESS => {
            let four = <[u8; 4]>::try_from(value).map(|bytes| Ipv4Addr::from(bytes).to_string());
            four.or_else(|_| value.try_into().map(|bytes: [u8; 16]| Ipv6Addr::from(bytes).to_string())).ok()
        }
        _ => None,
    }
}

/// Takes one element of DER off the front: its tag and its contents.
fn element<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut len = usize::from(first);
    if first & 0x80 != 0 {
        let (digits, after) =
            rest.split_at_checked(usize::from(first & 0x7F)).filter(|(d, _)| d.len() <= 3)?;
        len = digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit));
        rest = after;
    }
    let (body, after) = rest.split_at_checked(len)?;
    *bytes = after;
    Some((tag, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[u8] =
        b"xx\x06\x03\x55\x1D\x11\x04\x11\x30\x0F\x82\x01a\x87\x04\x0A\x00\x00\x07\x82\x04*.bc";

    #[test]
    fn names_and_addresses_are_found_whether_critical_or_not() {
        let expected = ["a", "10.0.0.7", "*.bc"].map(str::to_owned).to_vec();
        assert_eq!(subject_names(NAMES), Some(expected.clone()));
        let critical = [&NAMES[..7], b"\x01\x01\xFF", &NAMES[7..]].concat();
        assert_eq!(subject_names(&critical), Some(expected));
    }

    #[test]
    fn what_is_cut_short_or_has_no_names_has_none() {
        for end in 0..NAMES.len() {
            assert_eq!(subject_names(&NAMES[..end]), None, "{end}");
        }
    }
}
