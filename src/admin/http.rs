//! Just enough of HTTP/1.1 for Prometheus: GET /metrics, one request a connection.

use super::Answers;
use super::request::Reply;

/// The reply to what has been asked so far; None: the request's head is not complete. `too_long`: no more is taken.
pub(super) fn reply(asked: &[u8], too_long: bool, answers: &mut dyn Answers) -> Option<Reply> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let (status, body) = match request.parse(asked) {
        Ok(httparse::Status::Partial) if !too_long => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            ("431 Request Header Fields Too Large", "too long\n".to_string())
        }
        Err(_) => ("400 Bad Request", "that is no HTTP\n".to_string()),
        Ok(httparse::Status::Complete(_)) => {
            let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
            match (request.method, path) {
                (Some("GET"), "/metrics") => ("200 OK", answers.metrics()),
                (Some("GET"), _) => ("404 Not Found", "there is /metrics\n".to_string()),
                _ => ("405 Method Not Allowed", "there is GET /metrics\n".to_string()),
            }
        }
    };
    let allow = if status.starts_with("405") { "Allow: GET\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n{allow}Content-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    Some(Reply::whole([head.into_bytes(), body.into_bytes()].concat()))
}
