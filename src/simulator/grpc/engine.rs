//! The service: what the model is, and the methods that are answered with an empty message, as the reference answers
//! them. `Generate` is in [`super::generate`].

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::generate;
use super::messages::vllm_engine_server::VllmEngine;
use super::messages::{
    AbortRequest, AbortResponse, EmbedRequest, EmbedResponse, GenerateRequest, GetModelInfoRequest,
    GetModelInfoResponse, GetServerInfoRequest, GetServerInfoResponse, HealthCheckRequest,
    HealthCheckResponse,
};
use super::status;
use crate::simulator::server::Simulator;

/// The engine of one simulator.
pub struct Engine(pub Arc<Simulator>);

#[tonic::async_trait]
impl VllmEngine for Engine {
    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<generate::Answer>, Status> {
        generate::answer(&self.0, request)
            .await
            .map_err(|refusal| status::of(&refusal))
    }

    async fn get_model_info(
        &self,
        _: Request<GetModelInfoRequest>,
    ) -> Result<Response<GetModelInfoResponse>, Status> {
        let config = &self.0.config;
        Ok(Response::new(GetModelInfoResponse {
            model_path: config.model.clone(),
            is_generation: true,
            max_context_length: u32::try_from(config.max_model_len).unwrap_or(u32::MAX),
            served_model_name: self.0.first_name().to_owned(),
            ..GetModelInfoResponse::default()
        }))
    }

    async fn embed(&self, _: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        Ok(Response::new(EmbedResponse::default()))
    }

    async fn health_check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse::default()))
    }

    async fn abort(&self, _: Request<AbortRequest>) -> Result<Response<AbortResponse>, Status> {
        Ok(Response::new(AbortResponse::default()))
    }

    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        Ok(Response::new(GetServerInfoResponse::default()))
    }
}
