//! `Generate`: from the message to the messages that answer it. Called by [`super::engine`].

use std::future::ready;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status};

use super::messages::generate_request::Input as Sent;
use super::messages::generate_response::Response as Part;
use super::messages::{
    GenerateComplete, GenerateRequest, GenerateResponse, GenerateStreamChunk, KvTransferParams,
    OutputLogProbs, TopLogProbs,
};
use super::status;
use crate::simulator::api::Refusal;
use crate::simulator::api::answer::{KvHandOver, MAX_LOGPROBS};
use crate::simulator::api::request::KvTransfer;
use crate::simulator::choice::{Choice, Piece};
use crate::simulator::logprobs;
use crate::simulator::order::{self, Input, Order, Wish};
use crate::simulator::pieces::{self, Event, Speaker};
use crate::simulator::server::Simulator;
use crate::simulator::tokenizer::Tokens;

/// What a call is answered with.
pub type Answer = BoxStream<'static, Result<GenerateResponse, Status>>;

/// Generates.
///
/// # Errors
/// It is refused before anything was said.
pub async fn answer(
    sim: &Arc<Simulator>,
    request: Request<GenerateRequest>,
) -> Result<Response<Answer>, Refusal> {
    if let Some(failure) = sim.machine.fails() {
        return Err(failure.refusal());
    }
    let given = request
        .metadata()
        .get("x-request-id")
        .and_then(|v| v.to_str().ok());
    let mut id = sim.next_id(given);
    let mut ask = request.into_inner();
    if !ask.request_id.is_empty() {
        id.text = std::mem::take(&mut ask.request_id);
    }
    let wanted = wanted_logprobs(&ask);
    let wish = wish(sim.first_name(), ask)?;
    let stream = wish.stream;
    let mut order = order::check(sim, id, wish).await?;
    let shape = Shape::of(&order, wanted);
    let request_id = AsciiMetadataValue::try_from(&order.id.text).ok();
    let messages = if stream {
        let pieces = pieces::begin(order.start(sim)).await?;
        pieces.filter_map(move |event| ready(shape.event(event))).boxed()
    } else {
        let (choices, _) = order.whole(sim).await?;
        let messages: Vec<_> = choices.iter().map(|c| Ok(shape.complete(c, true))).collect();
        stream::iter(messages).boxed()
    };
    let mut response = Response::new(messages);
    if let Some(id) = request_id.filter(|_| sim.config.request_id_headers) {
        response.metadata_mut().insert("x-request-id", id);
    }
    Ok(response)
}

/// What a call wants of `model`: there is no field to name one.
///
/// # Errors
/// It has no prompt, or says in no readable way which half it is of prefill and decode.
pub fn wish(model: &str, ask: GenerateRequest) -> Result<Wish, Refusal> {
    let transfer = transfer(&ask)?;
    let input = match ask.input {
        Some(Sent::Text(text)) => Input::Text(text),
        Some(Sent::Tokenized(tokenized)) => Input::Ids(tokenized.input_ids),
        None => return Err(Refusal::new(400, "input is missing: give tokenized or text")),
    };
    let sampling = ask.sampling_params.unwrap_or_default();
    Ok(Wish {
        model: model.to_owned(),
        inputs: vec![input],
        n: Some(i64::from(sampling.n.max(1))),
        max_tokens: sampling.max_tokens.map(i64::from),
        ignore_eos: sampling.ignore_eos,
        stream: ask.stream,
        remote_decode: transfer.do_remote_decode.unwrap_or(false),
        remote_prefill: transfer.do_remote_prefill.unwrap_or(false),
        ..Wish::default()
    })
}

/// Prefill and decode apart: the JSON says which half this is; an address alone is where the prefill half was.
fn transfer(ask: &GenerateRequest) -> Result<KvTransfer, Refusal> {
    let Some(json) = &ask.kv_transfer_params_json else {
        return Ok(KvTransfer {
            do_remote_decode: None,
            do_remote_prefill: ask.kv_transfer_params.as_ref().map(|_| true),
        });
    };
    let unreadable =
        |e: String| Refusal::new(400, format!("kv_transfer_params_json must be a JSON object: {e}"));
    if !json.trim_start().starts_with('{') {
        // Serde would take a list for a struct, field by field.
        return Err(unreadable("it does not begin with a brace".to_owned()));
    }
    serde_json::from_str(json).map_err(|e| unreadable(e.to_string()))
}

/// Alternatives wanted for each token, the token itself included; -1 is as many as there may be.
fn wanted_logprobs(ask: &GenerateRequest) -> Option<usize> {
    match ask.sampling_params.as_ref()?.logprobs? {
        0 => None,
        n => Some(usize::try_from(n).map_or(MAX_LOGPROBS, |n| n.min(MAX_LOGPROBS))),
    }
}

/// What all messages of one answer share.
#[derive(Clone, Copy)]
struct Shape {
    prompt_tokens: u32,
    logprobs: Option<usize>,
    hand_over: bool,
}

impl Shape {
    fn of(order: &Order, logprobs: Option<usize>) -> Self {
        Shape {
            prompt_tokens: count(order.prompt_tokens),
            logprobs,
            hand_over: order.is_remote_decode(),
        }
    }

    /// The message that tells of an event; `None`: there is none.
    fn event(&self, event: Event) -> Option<Result<GenerateResponse, Status>> {
        match event {
            Event::Piece(speaker, Piece::Token(at, _)) => Some(Ok(self.chunk(&speaker, at))),
            // The reason is told at the end, and nobody asks for calls of tools.
            Event::Piece(_, Piece::End(_) | Piece::Fragment(..)) => None,
            Event::Ended(choice) => Some(Ok(self.complete(&choice, false))),
            Event::Failed(refusal) => Some(Err(status::of(&refusal))),
        }
    }

    fn chunk(&self, speaker: &Speaker, at: usize) -> GenerateResponse {
        let text = &speaker.reply.text;
        part(Part::Chunk(GenerateStreamChunk {
            token_ids: text.id(at).into_iter().collect(),
            prompt_tokens: self.prompt_tokens,
            completion_tokens: 1,
            cached_tokens: count(speaker.cached.unwrap_or(0)),
            output_logprobs: self.logprobs(text, at..at + 1),
            index: count(speaker.index),
        }))
    }

    /// The end of a choice; with its tokens, or without those that came before.
    fn complete(&self, choice: &Choice, tokens: bool) -> GenerateResponse {
        let text = &choice.reply.text;
        let (host, port) = KvHandOver::address();
        let output_ids = if tokens { text.ids() } else { Vec::new() };
        part(Part::Complete(GenerateComplete {
            completion_tokens: count(output_ids.len()),
            output_logprobs: self.logprobs(text, 0..output_ids.len()),
            output_ids,
            finish_reason: choice.reply.finish_reason.to_owned(),
            prompt_tokens: self.prompt_tokens,
            cached_tokens: count(choice.cached().unwrap_or(0)),
            index: count(choice.index),
            kv_transfer_params: self.hand_over.then(|| KvTransferParams {
                remote_host: host.to_owned(),
                remote_port: port.into(),
            }),
            kv_transfer_params_json: self.hand_over.then(KvHandOver::json),
        }))
    }

    fn logprobs(&self, text: &Tokens, range: std::ops::Range<usize>) -> Option<OutputLogProbs> {
        let wanted = self.logprobs.filter(|_| !range.is_empty())?;
        let mut all = OutputLogProbs::default();
        for (at, id) in range.filter_map(|at| Some((at, text.id(at)?))) {
            let (own, alternatives) = logprobs::of_id(id, at, wanted);
            let (token_ids, values) = alternatives.into_iter().map(|(id, p)| (id, p as f32)).unzip();
            all.token_ids.push(id);
            all.token_logprobs.push(own as f32);
            all.top_logprobs.push(TopLogProbs { values, token_ids });
        }
        Some(all)
    }
}

fn part(part: Part) -> GenerateResponse {
    GenerateResponse { response: Some(part) }
}

/// A number of tokens, as messages carry it.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
