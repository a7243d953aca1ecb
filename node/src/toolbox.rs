//! All tools of this node: the families, put together over what they see of it.

use std::sync::Arc;

use ollamax_family_cluster as cluster;
use ollamax_family_inference as inference;
use ollamax_family_models as models;
use ollamax_tools::ports::Ports;
use ollamax_tools::{Catalogue, DeclarationError, Families};

#[cfg(test)]
mod page;

/// The families there are.
pub(crate) const FAMILIES: [&str; 5] = ["cluster", "health", "inference", "models", "tools"];

/// The catalogue of the families that are named; of all where none is.
///
/// # Errors
/// When a declaration contradicts itself or another one; every test of this file would have said so.
pub(crate) fn fill(ports: &Ports, named: &[String]) -> Result<Catalogue, DeclarationError> {
    let mut tools = cluster::tools(ports)?;
    tools.extend(models::tools(ports)?);
    tools.extend(inference::tools(ports)?);
    let families = if named.is_empty() { Families::All } else { Families::Only(named.iter().cloned().collect()) };
    Ok(Catalogue::new(tools, &families)?.with_tasks(Arc::clone(&ports.tasks)))
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use ollamax_gateway::Toolbox;
    use ollamax_tools::mem::{MemLab, MemPorts};
    use ollamax_tools::views::{Model, Node};
    use ollamax_tools::{Caller, Permission, Principal, Progress, Started, Tool};

    use super::*;

    /// What a list may cost an assistant before it has asked anything.
    const TOKENS_MAX: usize = 10_000;
    /// Bytes of JSON that make a token, at least: what is measured is too much rather than too little.
    const BYTES_PER_TOKEN: usize = 3;

    /// The page of the tools.
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/user/tools.md");

    fn catalogue() -> Catalogue {
        fill(&MemPorts::default().ports(), &[]).expect("declared well")
    }

    #[test]
    fn every_tool_belongs_to_a_family_that_can_be_switched_and_every_family_has_tools() {
        let (ports, everybody) = (MemPorts::default().ports(), Principal::of_socket(0));
        let mut count = 0;
        for family in FAMILIES {
            let some = fill(&ports, &[family.to_owned()]).expect("declared well");
            let families: Vec<&str> = some.listed(&everybody).map(|tool| tool.spec().family).collect();
            assert!(!families.is_empty() && families.iter().all(|found| *found == family), "{families:?}");
            count += families.len();
        }
        assert_eq!(count, catalogue().listed(&everybody).count());
    }

    #[test]
    fn the_catalogue_is_small_enough_for_an_assistant() {
        let catalogue = catalogue();
        let everybody = Principal::of_socket(0);
        let listed: Vec<String> = catalogue.listed(&everybody).map(|tool| tool.to_json().to_string()).collect();
        let tokens = listed.iter().map(String::len).sum::<usize>().div_ceil(BYTES_PER_TOKEN);
        assert!(listed.len() <= 40, "{} tools", listed.len());
        assert!(tokens <= TOKENS_MAX, "{} tools of about {tokens} tokens", listed.len());
    }

    #[test]
    fn over_loopback_everything_is_seen_that_reads_or_infers_and_nothing_that_manages() {
        let (catalogue, everybody) = (catalogue(), Principal::of_socket(0));
        let seen: Vec<&str> = catalogue.listed(&Principal::loopback()).map(|tool| tool.spec().name).collect();
        let all = catalogue.listed(&everybody);
        let harmless = all.filter(|tool| tool.spec().permission != Permission::Manage).map(|tool| tool.spec().name);
        assert_eq!(seen, harmless.collect::<Vec<_>>());
        for name in ["cluster_status", "get_task", "chat"] {
            assert!(seen.contains(&name), "{name}: {seen:?}");
        }
        for name in ["pull_model", "delete_model", "drain_node"] {
            assert!(!seen.contains(&name) && catalogue.find(name).is_some(), "{name}: {seen:?}");
        }
    }

    /// A lab in which the examples of all tools can be done.
    fn lab() -> MemPorts {
        let node = |name: &str| Node { name: name.to_owned(), ..Node::default() };
        let model = |name: &str| Model {
            name: name.to_owned(),
            phase: "active".to_owned(),
            capabilities: ["completion", "tools", "embedding"].map(ToOwned::to_owned).into(),
            ..Model::default()
        };
        let models = ["llama3.2", "llama3.2:latest", "m", "m:1", "m:2", "m:latest"].map(model).into();
        let nodes = Some(["gpu-1", "gpu-2"].map(node).into());
        let ports = MemPorts::of(MemLab { nodes, models, ..MemLab::default() });
        ports.tasks.set(&format!("task_{:032}", 1), |task| task.status = "completed".to_owned());
        ports
    }

    #[tokio::test]
    async fn every_example_of_every_tool_is_answered_as_its_schema_says() {
        let catalogue = fill(&lab().ports(), &[]).expect("declared well");
        let administrator = Caller { principal: Principal::of_socket(0), request: Default::default(), trace: None };
        let mut refused = Vec::new();
        for tool in catalogue.listed(&administrator.principal) {
            let name = tool.spec().name;
            assert!(!tool.spec().examples.is_empty(), "{name} has no example");
            for example in tool.spec().examples {
                let arguments = serde_json::from_str(example.arguments).expect("JSON");
                let asked = catalogue.start(administrator.clone(), name, arguments, Progress::nobody()).await;
                let answer = match asked {
                    Ok(Started::Answered(answer)) => answer,
                    Ok(Started::Task(task)) => catalogue.answer(&task).expect("it goes on"),
                    Err(error) => {
                        refused.push(format!("{name}: {error}"));
                        continue;
                    }
                };
                assert_eq!(tool.output().problems(&answer), Vec::<String>::new(), "{name} {answer}");
            }
        }
        // Models in memory answer one vector, and the example has two texts.
        assert!(refused.len() == 1 && refused[0].starts_with("embed: "), "{refused:?}");
    }

    #[test]
    fn two_catalogues_are_the_same_bytes_and_those_that_were_agreed() {
        let written = || {
            let (catalogue, everybody) = (catalogue(), Principal::of_socket(0));
            let rows = catalogue.listed(&everybody).map(Tool::describe);
            serde_json::to_string_pretty(&rows.collect::<Vec<_>>()).expect("JSON")
        };
        assert_eq!(written(), written());
        // After a wanted change: INSTA_UPDATE=always cargo test --package ollamax-node toolbox; read the difference.
        insta::with_settings!({snapshot_path => "expected", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!("tools", written());
        });
    }

    #[test]
    fn the_document_of_the_tools_over_http_is_the_one_that_was_agreed() {
        let toolbox = Toolbox::new(catalogue(), &Registry::new()).expect("new names");
        let mut document = toolbox.openapi(&Principal::of_socket(0));
        document["info"]["version"] = "that of the release".into();
        let written = serde_json::to_string_pretty(&document).expect("JSON");
        insta::with_settings!({snapshot_path => "expected", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!("openapi", written);
        });
    }

    #[test]
    fn the_page_of_the_tools_says_what_they_declare() {
        let (catalogue, everybody) = (catalogue(), Principal::of_socket(0));
        let made = page::page(&catalogue.listed(&everybody).collect::<Vec<_>>(), &FAMILIES);
        // After a wanted change, as above.
        if std::env::var_os("INSTA_UPDATE").is_some_and(|wish| wish == "always") {
            std::fs::write(PAGE, &made).expect("written");
        }
        let there = std::fs::read_to_string(PAGE).expect("docs/user/tools.md is there");
        let first = there.lines().zip(made.lines()).find(|(there, made)| there != made);
        assert!(there == made, "docs/user/tools.md is not what the tools declare: {first:?}");
    }
}
