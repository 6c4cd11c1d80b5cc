"use strict";
(function () {
  var link = document.getElementById("download");
  var text = document.getElementById("undrift-data").textContent;
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.hidden = false;

  var folded = document.querySelectorAll("details");
  addEventListener("beforeprint", function () {
    folded.forEach(function (part) { part.dataset.was = part.open ? "open" : ""; part.open = true; });
  });
  addEventListener("afterprint", function () {
    folded.forEach(function (part) { part.open = part.dataset.was === "open"; });
  });
  var unfold = function () {
    var target = location.hash && document.querySelector(location.hash);
    if (target && target.closest("details")) { target.closest("details").open = true; }
  };
  addEventListener("hashchange", unfold);
  unfold();

  // Values under the pointer (or, with the arrow keys, in the focused figure), drag to magnify.
  var tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.appendChild(tip);
  document.querySelectorAll("svg[data-points]").forEach(function (svg) {
    var points = JSON.parse(svg.dataset.points), whole = svg.getAttribute("viewBox");
    var current = -1, from = null;
    var matrix = function () { return svg.getScreenCTM(); };
    var place = function (event) {
      return new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix().inverse());
    };
    var isShown = function (point) {
      return point[2] < 0 || !svg.querySelector('[id*="-s' + point[2] + '-"].off');
    };
    var show = function (index) {
      current = index;
      tip.hidden = index < 0;
      if (index < 0) { return; }
      var at = new DOMPoint(points[index][0], points[index][1]).matrixTransform(matrix());
      tip.textContent = points[index][3];
      var most = document.documentElement.clientWidth - tip.offsetWidth - 8;
      tip.style.left = Math.max(8, Math.min(at.x + 12, most)) + scrollX + "px";
      tip.style.top = at.y - tip.offsetHeight - 10 + scrollY + "px";
    };
    svg.addEventListener("pointermove", function (event) {
      var at = place(event), best = -1, least = 900;
      points.forEach(function (point, index) {
        var far = Math.pow(point[0] - at.x, 2) + Math.pow(point[1] - at.y, 2);
        if (far < least && isShown(point)) { least = far; best = index; }
      });
      show(best);
    });
    svg.addEventListener("pointerleave", function () { show(-1); from = null; });
    svg.addEventListener("pointerdown", function (event) {
      if (event.pointerType === "mouse") { from = place(event); event.preventDefault(); svg.focus(); }
    });
    svg.addEventListener("pointerup", function (event) {
      var to = place(event), start = from;
      from = null;
      if (!start || Math.abs(to.x - start.x) < 12 || Math.abs(to.y - start.y) < 12) { return; }
      var box = [Math.min(start.x, to.x), Math.min(start.y, to.y)];
      box.push(Math.abs(to.x - start.x), Math.abs(to.y - start.y));
      svg.setAttribute("viewBox", box.join(" "));
      svg.style.overflow = "hidden";
      show(-1);
    });
    svg.addEventListener("dblclick", function () { svg.setAttribute("viewBox", whole); });
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("keydown", function (event) {
      var move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") { svg.setAttribute("viewBox", whole); show(-1); }
      if (!move) { return; }
      event.preventDefault();
      var next = current;
      do { next = (next + move + points.length) % points.length; } while (!isShown(points[next]));
      show(next);
    });
    svg.addEventListener("blur", function () { show(-1); });
  });

  // Names in a legend hide and show their models.
  document.querySelectorAll("[data-series]").forEach(function (item) {
    var button = document.createElement("button"), list = item.closest("ul");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.append.apply(button, Array.from(item.childNodes));
    item.append(button);
    list.removeAttribute("aria-hidden");
    button.addEventListener("click", function () {
      var isOff = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!isOff));
      list.parentElement.querySelectorAll('[id*="-s' + item.dataset.series + '-"]')
        .forEach(function (part) { part.classList.toggle("off", isOff); });
    });
  });

  document.querySelectorAll("[data-copy]").forEach(function (button) {
    var code = button.closest(".command").querySelector("code");
    button.hidden = false;
    button.addEventListener("click", function () {
      var done = function () {
        button.textContent = "Copied";
        setTimeout(function () { button.textContent = "Copy"; }, 1500);
      };
      var select = function () {
        var range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        if (document.execCommand("copy")) { done(); }
      };
      if (navigator.clipboard) { navigator.clipboard.writeText(code.textContent).then(done, select); }
      else { select(); }
    });
  });
})();
