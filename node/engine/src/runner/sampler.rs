//! From options to llama.cpp's chain of samplers.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;

use crate::options::Sampling;
use crate::runner::OrderError;

/// Tells llama.cpp to choose a seed of its own.
const SEED_FREE: u32 = u32::MAX;
const JSON_GRAMMAR: &str = r#"
root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt/] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"#;

/// The chain for one text. Temperature 0 takes the likeliest token and knows no chance at all.
pub(super) fn chain(
    model: &LlamaModel,
    options: &Sampling,
    json: bool,
    num_ctx: u32,
) -> Result<LlamaSampler, OrderError> {
    let mut chain = Vec::new();
    if json {
        chain.push(LlamaSampler::grammar(model, JSON_GRAMMAR, "root").map_err(OrderError::native)?);
    }
    let last = match options.repeat_last_n {
        -1 => i64::from(num_ctx),
        count => count.clamp(0, i64::from(num_ctx)),
    };
    let repeat = if options.repeat_penalty > 0.0 { options.repeat_penalty } else { 1.0 };
    chain.push(LlamaSampler::penalties(
        model.n_vocab(),
        i32::try_from(last).unwrap_or(0),
        repeat,
        options.frequency_penalty,
        options.presence_penalty,
    ));
    if options.temperature <= 0.0 {
        chain.push(LlamaSampler::greedy());
        return Ok(LlamaSampler::chain_simple(chain));
    }
    let top_k = i32::try_from(options.top_k.clamp(0, i64::from(model.n_vocab()))).unwrap_or(0);
    let seed = if options.seed < 0 { SEED_FREE } else { u32::try_from(options.seed & 0x7fff_ffff).unwrap_or(0) };
    chain.extend([
        LlamaSampler::top_k(top_k),
        LlamaSampler::typical(options.typical_p, 1),
        LlamaSampler::top_p(options.top_p, 1),
        LlamaSampler::min_p(options.min_p, 1),
        LlamaSampler::temp(options.temperature),
        LlamaSampler::dist(seed),
    ]);
    Ok(LlamaSampler::chain_simple(chain))
}
