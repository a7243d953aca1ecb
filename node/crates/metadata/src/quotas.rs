//! How much room values take, and may take, as gauges by prefix. Names start with `ollamax_values_`.
//!
//! They are read when somebody asks for them. What cannot be read has no value; after consensus is gone the last ones
//! stay.

use std::sync::{Arc, Weak};

use prometheus::core::{Collector, Desc};
use prometheus::{IntGaugeVec, Opts, proto::MetricFamily};

use ollamax_core::catalog;

use crate::handle::{Handle, Inner};

/// The gauges of one node's values.
pub(crate) struct QuotaGauges {
    consensus: Weak<Inner>,
    used: IntGaugeVec,
    limit: IntGaugeVec,
}

// === impl QuotaGauges ===

impl QuotaGauges {
    /// Read once, so that they have values from the start.
    pub(crate) fn of(consensus: &Handle) -> Self {
        let gauges = Self {
            consensus: Arc::downgrade(&consensus.0),
            used: gauge("used_bytes", "Bytes of keys and values under a prefix"),
            limit: gauge("limit_bytes", "Bytes that keys and values under a prefix may take"),
        };
        gauges.read(consensus);
        gauges
    }

    fn read(&self, consensus: &Handle) {
        self.used.reset();
        self.limit.reset();
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        for (prefix, usage) in catalog::quotas(&*consensus.view(), "").unwrap_or_default() {
            self.used.with_label_values(&[prefix]).set(whole(usage.bytes));
            self.limit.with_label_values(&[prefix]).set(whole(usage.bytes_max));
        }
    }
}

impl Collector for QuotaGauges {
    fn desc(&self) -> Vec<&Desc> {
        [&self.used, &self.limit].into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(consensus) = self.consensus.upgrade() {
            self.read(&Handle(consensus));
        }
        [&self.used, &self.limit].into_iter().flat_map(Collector::collect).collect()
    }
}

fn gauge(name: &str, help: &str) -> IntGaugeVec {
    let options = Opts::new(format!("ollamax_values_{name}"), help);
    IntGaugeVec::new(options, &["prefix"]).expect("the name and label are valid")
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use ollamax_core::catalog::Command;
    use ollamax_core::catalog::txn::{Op, Txn};
    use ollamax_types::RequestId;

    use crate::alone::Alone;

    fn shown(registry: &Registry, name: &str) -> Option<(String, f64)> {
        let families = registry.gather();
        let metric = families.iter().find(|family| family.name() == name)?.get_metric().first()?;
        Some((metric.get_label().first()?.value().to_owned(), metric.get_gauge().value()))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn they_show_what_values_take_and_may_take() {
        let alone = Alone::cluster_of_one().await;
        let registry = Registry::new();
        alone.handle.register_metrics(&registry).expect("fresh registry");
        let ask = async |command| {
            let done = alone.handle.propose(RequestId::default(), "test", command).await.expect("committed");
            done.accepted().expect("accepted");
        };
        let put = Op::Put { key: "user/a".to_owned(), bytes: vec![7; 4], lease: None };
        ask(Command::SetQuota { prefix: "user/".to_owned(), bytes_max: 100 }).await;
        ask(Command::Txn(Txn { then: vec![put], ..Txn::default() })).await;
        let user = |bytes: f64| Some(("user/".to_owned(), bytes));
        assert_eq!(shown(&registry, "ollamax_values_used_bytes"), user(10.0));
        assert_eq!(shown(&registry, "ollamax_values_limit_bytes"), user(100.0));
        alone.close().await;
        assert_eq!(shown(&registry, "ollamax_values_used_bytes"), user(10.0), "the last value stays");
    }
}
