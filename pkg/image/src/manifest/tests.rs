use super::*;

fn parse(json: &str, said: &[&str]) -> Result<Document, ManifestError> {
    Document::parse(json.as_bytes(), said, &Limits::default())
}

fn descriptor(media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":3}}"#, Digest::of(b"abc"))
}

fn manifest_with(extra: &str) -> String {
    let (config, layer) = (descriptor(OCI_CONFIG), descriptor(LAYERS[1]));
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]{extra}}}"#)
}

fn index_with(extra: &str) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[{}]{extra}}}"#, descriptor(OCI_MANIFEST))
}

#[test]
fn plain_documents_are_read() {
    assert!(matches!(parse(&manifest_with(""), &[]), Ok(Document::Manifest(_))));
    assert!(matches!(
        parse(&manifest_with(""), &[OCI_MANIFEST, "application/json"]),
        Ok(Document::Manifest(_))
    ));
    assert!(matches!(parse(&index_with(""), &[DOCKER_LIST]), Ok(Document::Index(_))));
}

#[test]
fn ambiguous_documents_are_refused() {
    let layers = format!(r#","layers":[{}]"#, descriptor(LAYERS[0]));
    assert!(matches!(parse(&index_with(&layers), &[]), Err(ManifestError::Ambiguous)));
    assert!(matches!(parse(&manifest_with(r#","manifests":[]"#), &[]), Err(ManifestError::Ambiguous)));
    assert!(matches!(parse(&manifest_with(r#","fsLayers":[]"#), &[]), Err(ManifestError::Ambiguous)));
    let lies = format!(r#","mediaType":"{OCI_INDEX}""#);
    assert!(matches!(parse(&manifest_with(&lies), &[]), Err(ManifestError::MediaType(_))));
    assert!(matches!(parse(&manifest_with(""), &[OCI_INDEX]), Err(ManifestError::MediaType(_))));
    assert!(matches!(parse(&index_with(""), &[OCI_MANIFEST]), Err(ManifestError::MediaType(_))));
    // One field given twice.
    assert!(matches!(parse(&manifest_with(r#","layers":[]"#), &[]), Err(ManifestError::Json(_))));
}

#[test]
fn foreign_kinds_are_refused() {
    assert!(matches!(parse("[]", &[]), Err(ManifestError::Json(_))));
    assert!(matches!(parse(r#"{"schemaVersion":2}"#, &[]), Err(ManifestError::Neither)));
    assert!(matches!(parse(r#"{"schemaVersion":1,"fsLayers":[]}"#, &[]), Err(ManifestError::Schema1)));
    let helm = manifest_with("").replace(OCI_CONFIG, "application/vnd.cncf.helm.config.v1+json");
    assert!(matches!(parse(&helm, &[]), Err(ManifestError::NotAnImage(_))));
    let encrypted = manifest_with("").replace("tar+gzip", "tar+gzip+encrypted");
    assert!(matches!(parse(&encrypted, &[]), Err(ManifestError::LayerType(_))));
    let digest = manifest_with("").replace("sha256:", "sha256:../../");
    assert!(matches!(parse(&digest, &[]), Err(ManifestError::Json(_))));
}

#[test]
fn the_best_variant_is_chosen() {
    let entry = |architecture: &str, variant: Option<&str>| Descriptor {
        media_type: String::new(),
        digest: Digest::of(format!("{architecture}{variant:?}").as_bytes()),
        size: 1,
        urls: None,
        annotations: None,
        platform: Some(RawPlatform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }),
    };
    let platform = |architecture: &str, variant: Option<&str>| Platform {
        os: "linux".into(),
        architecture: architecture.into(),
        variant: variant.map(str::to_owned),
    };
    let entries = [
        entry("amd64", None),
        entry("arm", Some("v5")),
        entry("arm", Some("v6")),
        entry("arm64", Some("v8")),
    ];
    let chosen = |p: &Platform| choose(&entries, p).map(|d| d.digest.clone());
    assert_eq!(chosen(&platform("arm", Some("v7"))), Some(entries[2].digest.clone()));
    assert_eq!(chosen(&platform("arm", Some("v5"))), Some(entries[1].digest.clone()));
    assert_eq!(chosen(&platform("arm64", None)), Some(entries[3].digest.clone()));
    assert_eq!(chosen(&platform("amd64", None)), Some(entries[0].digest.clone()));
    assert_eq!(chosen(&platform("amd64", Some("v3"))), Some(entries[0].digest.clone()));
    assert_eq!(chosen(&platform("s390x", None)), None);
    assert_eq!(fits(&platform("amd64", None), "linux", "amd64", Some("v3")), None);
}
