//! The certificate authority of one server, and the certificate by which its clients know it.
//!
//! Both are made anew for each server: there is no key on disk, and no server is taken for another one. Clients need TLS
//! not for secrecy but because kubectl sends a token over nothing else.

use std::io;
use std::sync::Arc;

use k8s_openapi::ByteString;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// Whom clients trust.
#[derive(Debug, Clone)]
pub struct Authority {
    pem: String,
    der: Vec<u8>,
}

impl Authority {
    /// Base64, as `certificate-authority-data` of a kubeconfig wants it.
    pub fn data(&self) -> ByteString {
        ByteString(self.pem.clone().into_bytes())
    }

    /// For clients that read no kubeconfig.
    pub fn der(&self) -> Vec<u8> {
        self.der.clone()
    }
}

/// Makes an authority, and what accepts connections under these names and addresses with a certificate of it.
pub fn issue(names: Vec<String>) -> io::Result<(Authority, TlsAcceptor)> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let (authority, certificate) = certify(names, &key).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key));
    let mut config = config.map_err(io::Error::other)?;
    // There is no HTTP/2 here, and clients that offer it have to be told.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((authority, Arc::new(config).into()))
}

fn certify(names: Vec<String>, key: &KeyPair) -> Result<(Authority, CertificateDer<'static>), rcgen::Error> {
    let mut own = CertificateParams::default();
    own.distinguished_name.push(DnType::CommonName, "authority of the API server double");
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    own.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let own_key = KeyPair::generate()?;
    let certificate = own.self_signed(&own_key)?;
    let authority = Authority { pem: certificate.pem(), der: certificate.der().to_vec() };
    let served = CertificateParams::new(names)?.signed_by(key, &Issuer::new(own, own_key))?;
    Ok((authority, served.der().clone()))
}
