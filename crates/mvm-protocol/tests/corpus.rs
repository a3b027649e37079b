//! The fuzz targets of the wire, of archives and of manifests, over their kept corpus and mutations of it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/image.rs"]
mod image;
#[path = "../../../fuzz/src/protocol.rs"]
mod protocol;
#[path = "../../../fuzz/src/transfer.rs"]
mod transfer;

#[test]
fn frames() {
    corpus::run("frame", 500, protocol::frame);
}

#[test]
fn messages() {
    corpus::run("message", 300, protocol::message);
}

#[test]
fn archives() {
    corpus::run("transfer", 100, transfer::transfer);
}

#[test]
fn image_manifests() {
    corpus::run("image_manifest", 500, image::image_manifest);
}
