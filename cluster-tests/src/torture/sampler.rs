//! Asks every running node for its status, again and again, until the traffic is over.
//!
//! Each node is asked by itself and by one at a time, so that its samples come in order. A node that does not answer in
//! time is asked anew; that is what faults do.

use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use ollamax_testkit::cluster::Node;
use ollamax_testkit::{Cluster, wait};

use crate::samples::{Book, Sample};
use crate::traffic::{Traffic, held};

const INTERVAL: Duration = Duration::from_millis(100);
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// Samples all nodes until the traffic is over.
pub(crate) async fn work(cluster: &Cluster, book: &Mutex<Book>, traffic: &Traffic<'_>) {
    join_all(cluster.nodes().iter().map(|node| Box::pin(sample(node, book, traffic)))).await;
}

async fn sample(node: &Node, book: &Mutex<Book>, traffic: &Traffic<'_>) {
    while !traffic.is_over() {
        if let Ok(admin) = node.admin()
            && let Ok(Ok(status)) = timeout(ANSWER_TIME, admin.status()).await
            && let Some(sample) = Sample::of(node.index(), &status)
        {
            held(book).note(sample);
        }
        wait::pause(INTERVAL).await;
    }
}
