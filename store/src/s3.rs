//! Objects in S3, at any endpoint. Enters: bucket and key. Leaves: bytes. Never: aws-lc or OpenSSL; TLS is rustls with ring.

use std::ops::Range;
use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;

use crate::{ObjectUri, StoreError};

/// How S3 is reached.
#[derive(Clone, Default)]
pub struct S3Options {
    /// `http://host:port` of a server that is not AWS; none: AWS, or `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// Region; none: from the environment, else `us-east-1`.
    pub region: Option<String>,
    /// `host/bucket/key` rather than `bucket.host/key`; most servers that are not AWS need it. Set by itself when there is an endpoint.
    pub path_style: Option<bool>,
    /// Access key and secret; none: from the usual AWS places.
    pub keys: Option<(String, String)>,
}

impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, region, path_style, keys: _ } = self;
        write!(f, "S3Options {{ endpoint: {endpoint:?}, region: {region:?}, path_style: {path_style:?} }}")
    }
}

/// Files up to this size go in one request; larger ones in parts of this size.
const PART_BYTES: u64 = 64 * 1024 * 1024;

/// How `aws-credential-types` words `CredentialsNotLoaded`; the type itself does not come out of the SDK.
const NOT_LOADED: &str = "credential provider was not enabled";

pub(crate) async fn client(options: &S3Options) -> Client {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some((access, secret)) = &options.keys {
        loader = loader.credentials_provider(Credentials::new(access, secret, None, None, "configuration"));
    }
    let shared = loader.load().await;
    let own_endpoint = shared.endpoint_url().is_some();
    let mut config = aws_sdk_s3::config::Builder::from(&shared).force_path_style(options.path_style.unwrap_or(own_endpoint));
    if shared.region().is_none() {
        config = config.region(Region::new("us-east-1"));
    }
    Client::from_conf(config.build())
}

pub(crate) async fn create_bucket(client: &Client, bucket: &str) -> Result<(), StoreError> {
    let uri = ObjectUri::S3 { bucket: bucket.to_owned(), key: String::new() };
    match client.create_bucket().bucket(bucket).send().await {
        Err(e) if !matches!(e.code(), Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists")) => Err(explain(&uri, &e)),
        _ => Ok(()),
    }
}

pub(crate) async fn size(client: &Client, uri: &ObjectUri, bucket: &str, key: &str) -> Result<u64, StoreError> {
    let head = client.head_object().bucket(bucket).key(key).send().await.map_err(|e| explain(uri, &e))?;
    Ok(head.content_length().unwrap_or_default().max(0) as u64)
}

pub(crate) async fn read_range(client: &Client, uri: &ObjectUri, bucket: &str, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
    let header = format!("bytes={}-{}", range.start, range.end - 1);
    let got = client.get_object().bucket(bucket).key(key).range(header).send().await.map_err(|e| explain(uri, &e))?;
    let body = got.body.collect().await.map_err(|e| StoreError::Other { uri: uri.to_string(), cause: chain(&e) })?;
    Ok(body.into_bytes())
}

pub(crate) async fn put_file(client: &Client, from: &Path, uri: &ObjectUri, bucket: &str, key: &str) -> Result<(), StoreError> {
    let size = tokio::fs::metadata(from).await.map_err(|e| StoreError::io(&from.display(), &e))?.len();
    if size > PART_BYTES {
        return put_parts(client, from, size, uri, bucket, key).await;
    }
    let body = stream(from, 0, size).await?;
    client.put_object().bucket(bucket).key(key).body(body).send().await.map_err(|e| explain(uri, &e))?;
    Ok(())
}

async fn put_parts(client: &Client, from: &Path, size: u64, uri: &ObjectUri, bucket: &str, key: &str) -> Result<(), StoreError> {
    let created = client.create_multipart_upload().bucket(bucket).key(key).send().await.map_err(|e| explain(uri, &e))?;
    let upload = created.upload_id().unwrap_or_default().to_owned();
    let sent = async {
        let mut parts = Vec::new();
        for (number, start) in (1..).zip((0..size).step_by(PART_BYTES as usize)) {
            let body = stream(from, start, PART_BYTES.min(size - start)).await?;
            let part = client.upload_part().bucket(bucket).key(key).upload_id(&upload).part_number(number).body(body);
            let part = part.send().await.map_err(|e| explain(uri, &e))?;
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build());
        }
        let all = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(&upload).multipart_upload(all);
        complete.send().await.map_err(|e| explain(uri, &e))?;
        Ok(())
    };
    let sent = sent.await;
    if sent.is_err() {
        // Best effort: parts left behind cost storage, but the error that matters is the one being returned.
        drop(client.abort_multipart_upload().bucket(bucket).key(key).upload_id(&upload).send().await);
    }
    sent
}

async fn stream(from: &Path, offset: u64, length: u64) -> Result<ByteStream, StoreError> {
    let stream = ByteStream::read_from().path(from).offset(offset).length(Length::Exact(length)).build().await;
    stream.map_err(|e| StoreError::Other { uri: from.display().to_string(), cause: chain(&e) })
}

/// One sentence for an S3 error: what the server said where it said something, else the chain of causes.
fn explain<E>(uri: &ObjectUri, error: &SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let uri = uri.to_string();
    let status = error.raw_response().map(|it| it.status().as_u16());
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    match (status, code) {
        (_, "NoSuchKey" | "NoSuchBucket" | "NotFound") | (Some(404), _) => StoreError::NotFound { uri },
        (Some(401 | 403), _) | (_, "AccessDenied" | "SignatureDoesNotMatch" | "InvalidAccessKeyId") => {
            let cause = if code.is_empty() { format!("HTTP {}", status.unwrap_or_default()) } else { code.to_owned() };
            StoreError::Denied { uri, cause }
        }
        _ => match chain(error) {
            cause if cause.contains(NOT_LOADED) => StoreError::NoCredentials { uri },
            cause => StoreError::Other { uri, cause },
        },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
