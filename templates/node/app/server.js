// A web service: one answer to every question.
const http = require("node:http");

http
  .createServer((_request, response) => {
    response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
    response.end("Hello from Node.js in a microVM.\n");
  })
  .listen(Number(process.env.PORT), "127.0.0.1");
